"""The activations that a sweep's trials share, computed once for all of them.

Trials that differ in freeze depth alone share one pass: every image is decoded once for each
view, and goes through the deepest trunk once, however many depths there are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graft.activations.cache import ActivationCache
from graft.activations.cache_decision import Measurement, Mode, choose_to_cache, measure
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import FillResult, fill, run_here
from graft.activations.key import CacheEntry, key_scheme, view_name
from graft.activations.lease import LeaseTerms
from graft.backbones.transfer_model import build_on_meta
from graft.backbones.trunk import trunk_chain
from graft.data.manifest import open_dataset
from graft.spec import Preprocess
from graft.store import Store
from graft.sweep.sweep_plan import Trial, trunk_family
from graft.sweep.trial_recorder import TrialRecorder
from graft.training.attempt import training_data
from graft.training.prepare_run import assemble
from graft.training.run_activations import reads_of
from graft.training.training_plan import make_training_plan


@dataclass(frozen=True)
class Filler:
    """Where trunks run: in this process, or on a cluster's workers. What they cost is measured
    there, too. Either takes a trunk that is on the CPU."""

    device: str
    """The kind that trials train on, ``cpu`` or ``cuda``."""
    measure: Callable[[ActivationCache, TrunkSetup], Measurement]
    fill: Callable[[ActivationCache, TrunkSetup, Sequence[CacheEntry]], FillResult]
    """Computes what is missing."""


def cache_shared_trunks(
    store: Store, trials: Iterable[Trial], filler: Filler, recorder: TrialRecorder
) -> None:
    """See to it that what trials read many times is in the store.

    Args:
        store: where it is cached.
        trials: those still to be trained.
        filler: computes what is missing.
        recorder: told each decision, on a line, and what was computed.
    """
    families: defaultdict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.spec.cache_refusal is None:
            pixels = view_name(trial.spec.augment, 1)
            families[trunk_family(trial.spec), pixels].append(trial)
    for family in families.values():
        _cache_family(store, family, filler, recorder)


def fill_here(recorder: TrialRecorder) -> Filler:
    """Return what computes missing activations on this process's CPUs."""

    def fill_missing(
        cache: ActivationCache, setup: TrunkSetup, entries: Sequence[CacheEntry]
    ) -> FillResult:
        run = run_here(cache.store, setup, recorder.computing)
        return fill(cache, entries, run, LeaseTerms(waiting=recorder.waiting))

    def measure_here(cache: ActivationCache, setup: TrunkSetup) -> Measurement:
        return measure(setup, cache.store, cache.dataset.images("train"), cache.keys.dtype)

    return Filler("cpu", measure_here, fill_missing)


def _cache_family(
    store: Store, trials: Sequence[Trial], filler: Filler, recorder: TrialRecorder
) -> None:
    """Cache what trials with one backbone and the same views share."""
    spec = trials[0].spec
    reads = _reads_of(store, trials)
    if not reads:
        recorder.say(f"{spec.backbone.arch}: not cached: nothing is frozen")
        return
    prepared = assemble(store, spec, freeze=max(entry.depth for entry in reads))
    data = training_data(prepared, spec)
    keys = key_scheme(spec, trunk_chain(prepared.model, prepared.contract), filler.device)
    cache = ActivationCache(store, data.dataset, keys)
    setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
    mode: Mode = "on" if any(trial.spec.cache == "on" for trial in trials) else "auto"
    entries: list[CacheEntry] = []
    for decision in choose_to_cache(cache, filler.measure(cache, setup), mode, reads):
        through = setup.model.stages.names[decision.depth - 1]
        recorder.say(f"{setup.model.stages.arch} through {through}: {decision.reason}")
        recorder.cached_images += sum(read.cached_images for read in decision.cached)
        entries += decision.entries
    if entries:
        recorder.trunk_images += filler.fill(cache, setup, entries).trunk_forwards


def _reads_of(store: Store, trials: Sequence[Trial]) -> dict[CacheEntry, float]:
    """Return how often trials together read each entry, by rising depth; not images themselves."""
    first = trials[0].spec
    dataset = open_dataset(store, first.dataset.name, first.dataset.version)
    crop = (first.preprocess or Preprocess()).crop
    model = build_on_meta(first.backbone, first.head, len(dataset.manifest.classes), crop)
    reads: defaultdict[CacheEntry, float] = defaultdict(float)
    for trial in trials:
        plan = make_training_plan(model, trial.spec.backbone, trial.spec.train)
        for entry, times in reads_of(trial.spec, dataset, plan).items():
            if entry.depth:
                reads[entry] += times
    return dict(sorted(reads.items(), key=lambda read: read[0].depth))
