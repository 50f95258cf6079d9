"""The activations that a sweep's trials share: what is worth keeping, computed once for all.

Trials that differ in freeze depth alone share one pass: every image is decoded once for each
view, and goes through the deepest trunk once, whatever the number of depths.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch

from graft.activations.cost import Decision, Mode
from graft.activations.fill import Done, Filled, Job, Naming, Wanted, fill, run_here
from graft.activations.key import view_name
from graft.backbones.trunk import trunk_chain
from graft.store import Store
from graft.sweep.ledger import Ledger
from graft.sweep.plan import Trial, trunk_family
from graft.training.attempt import training_data
from graft.training.kept import ReadCounts, naming_of, reads_of, worth_keeping
from graft.training.loop import Data
from graft.training.plan import make_plan
from graft.training.prepare import Assembly, assemble

Filler = Callable[[Assembly, Data, Naming, Sequence[Wanted]], Filled]
"""Computes what is missing, in this process or on a cluster."""


def share_activations(
    store: Store,
    trials: Iterable[Trial],
    device: str,
    filler: Filler,
    ledger: Ledger,
) -> None:
    """See to it that what trials read many times is in the store.

    Args:
        store: where it is kept.
        trials: those still to be trained.
        device: the kind that trials train on, ``cpu`` or ``cuda``.
        filler: computes what is missing.
        ledger: told each decision, on a line, and what was computed.
    """
    families: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.spec.not_kept is None:
            pixels = view_name(trial.spec.augment, 1)
            families.setdefault((trunk_family(trial.spec), pixels), []).append(trial)
    for family in families.values():
        _share(store, family, device, filler, ledger)


def _share(
    store: Store,
    trials: Sequence[Trial],
    device: str,
    filler: Filler,
    ledger: Ledger,
) -> None:
    """Keep what trials with one backbone and the same views share."""
    reads: ReadCounts = {}
    first = assemble(store, trials[0].spec)
    for trial in trials:
        plan = make_plan(first.model, trial.spec.backbone, trial.spec.train)
        for depth, counts in reads_of(trial.spec, first.dataset, plan, 0).items():
            at = reads.setdefault(depth, defaultdict(float))
            for key, count in counts.items():
                at[key] += count
    reads.pop(0, None)
    if not reads:
        ledger.say(f"{trials[0].spec.backbone.arch}: not cached: nothing is frozen")
        return
    assembly = assemble(store, trials[0].spec, freeze=max(reads))
    chain = trunk_chain(assembly.model, assembly.contract)
    naming = naming_of(trials[0].spec, chain, device)
    data = training_data(assembly, trials[0].spec)
    if device == "cpu" or torch.cuda.is_available():
        assembly.model.to(torch.device(device))  # where what it costs is measured
    mode: Mode = "on" if any(trial.spec.cache == "on" for trial in trials) else "auto"
    stages = assembly.model.stages

    def tell(depth: int, decision: Decision) -> None:
        ledger.say(f"{stages.arch} through {stages.names[depth - 1]}: {decision.reason}")
        ledger.kept_images += sum(read.kept for read in decision.keep)

    wanted = worth_keeping(
        store, mode, dict(sorted(reads.items())), assembly.model, data, naming, tell
    )
    if wanted:
        ledger.trunk_images += filler(assembly, data, naming, wanted).trunk_forwards


def fill_here(store: Store, device: torch.device, ledger: Ledger) -> Filler:
    """Return what computes missing activations in this process."""

    def filled(assembly: Assembly, data: Data, naming: Naming, wanted: Sequence[Wanted]) -> Filled:
        model = assembly.model.to(device)

        def run(jobs: Sequence[Job], told: Done) -> None:
            total, done = sum(len(job.images) for job in jobs), 0

            def progress(images: int) -> None:
                nonlocal done
                done += images
                ledger.computing(done, total)

            run_here(store, model, data.loader, data.preprocess, device=device, progress=progress)(
                jobs, told
            )

        return fill(store, data.dataset, naming, wanted, run, waiting=ledger.waiting)

    return filled
