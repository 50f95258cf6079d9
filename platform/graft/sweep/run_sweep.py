"""Sweeps on Ray: the driver.

Trials whose heads are one computation need no Tune, since nothing is scheduled between them.
All others run in Tune's actors, each of which trains one trial after another; a trial with
several workers nests Ray Train. The driver records every trial in the store as soon as it ends,
so that a sweep that was killed can be resumed.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from graft.activations.cache import ActivationCache
from graft.activations.cache_decision import Measurement
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import FillResult
from graft.activations.key import CacheEntry
from graft.activations.lease import LeaseTerms
from graft.activations.ray_tasks import TaskResources, TaskSetup, fill_on_ray, measure_on_ray
from graft.backbones.process_setup import set_up_process
from graft.cpus import available_cpus
from graft.data.manifest import open_dataset
from graft.errors import Interrupted, ResourceError
from graft.registry import Fence, Mover
from graft.spec import Finetune, Preprocess, StandardAugment, trial_spec
from graft.store import Store
from graft.store.retries import persist
from graft.sweep.cache_shared_trunks import Filler, cache_shared_trunks, fill_here
from graft.sweep.finishing import EndedSweep
from graft.sweep.prepare_sweep import TrialResolver
from graft.sweep.ray_tune import tune_trials
from graft.sweep.ray_tune_actor import ActorSetup, batch_on_ray, error_line
from graft.sweep.search import Suggestion, make_search, warm_trials
from graft.sweep.sweep_plan import Trial, trial_id
from graft.sweep.sweep_records import (
    SweepResult,
    TrialRecord,
    read_plan,
    read_sweep,
    read_sweep_result,
)
from graft.sweep.trial import Progress, Selection, TrialProcess, train_together
from graft.sweep.trial_checkpoint import KEEPING
from graft.sweep.trial_recorder import Show, TrialRecorder
from graft.training.attempt_pointer import hold_attempt
from graft.training.events import Note
from graft.training.prepare_run import enlargement
from graft.training.publish_model import Publishing
from graft.training.ray_train import require_resources, run_finetune
from graft.training.run_records import Result
from graft.training.worker_group import Ranks

Connect = Callable[[], AbstractContextManager[None]]
"""Connects to Ray for as long as its context lasts."""


def run_sweep(
    store: Store,
    sweep_id: str,
    show: Show,
    connect: Connect,
    mover: Mover | None = None,
    take_over: bool = False,
) -> SweepResult:
    """Run a recorded sweep, or resume it, and return its result.

    Args:
        store: where the sweep is recorded.
        sweep_id: the sweep's id.
        show: called with every event.
        connect: connects to Ray; not called if all trials are heads that this machine's CPUs train.
        mover: who moves the alias that the spec names; None: this machine's user.
        take_over: as `hold_attempt` has it.

    Raises:
        InputError: another process is at work on it.
        Interrupted: the user pressed Ctrl-C; trials that have ended are recorded.
        RunFailed: no trial gave a finite metric.
    """
    if result := read_sweep_result(store, sweep_id):
        return result
    try:
        folder = f"sweeps/{sweep_id}"
        with hold_attempt(store, folder, lambda text: show(Note(text)), take_over) as fence:
            if result := read_sweep_result(store, sweep_id):  # another has finished it meanwhile
                return result
            driver = _Driver(store, sweep_id, show, connect, fence)
            return driver.run(mover or Mover.here("python"))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; trials that are done stay. Go on with: graft sweep --resume {sweep_id}"
        ) from None


@dataclass(frozen=True)
class _Remaining:
    """The trials of a plan that have not ended yet."""

    batches: Sequence[Sequence[Trial]]
    """Those that are trained together, as one computation for each batch."""
    alone: Sequence[Trial]
    """Those that are trained one by one."""


class _Driver:
    """One command's work on a sweep."""

    def __init__(self, store: Store, sweep_id: str, show: Show, connect: Connect, fence: Fence):
        self._store, self._id, self._connect, self._fence = store, sweep_id, connect, fence
        self._sweep = sweep = read_sweep(store, sweep_id)
        self._plan = read_plan(store, sweep_id)
        self._scaling = sweep.base.scaling
        self._resolver = TrialResolver(store, sweep.base, sweep.search.metric)
        cluster = os.environ.get("RAY_ADDRESS") not in (None, "", "local")
        # What this process put on a GPU would stay there while others train on it.
        self._only_drives = cluster or self._scaling.gpus_per_worker > 0
        """Whether Ray's workers alone compute, and this process nothing."""
        weights = sweep.register_.weights if sweep.register_ else "best"
        selection = Selection(sweep.search.metric, sweep.search.mode, weights)
        self._recorder = TrialRecorder(store, sweep_id, sweep, show, fence)
        readers = 0
        if not self._plan.trials:
            readers = max(1, self._plan.count // max(1, len(self._plan.trunks)))
        self._setup = ActorSetup(
            store_uri=store.uri,
            sweep_id=sweep_id,
            selection=selection,
            mutates=sweep.scheduler.kind == "pbt",
            keeps=sweep.scheduler.kind in KEEPING,
            readers_per_trunk=readers,
        )

    def run(self, mover: Mover) -> SweepResult:
        """Cache shared activations, train the remaining trials, and finish the sweep."""
        base, remaining = self._sweep.base, self._remaining()
        manifest = open_dataset(self._store, base.dataset.name, base.dataset.version).manifest
        if text := enlargement(manifest, base.preprocess or Preprocess()):
            self._recorder.say(text)
        unlisted = not self._plan.trials and len(self._recorder.records) < self._plan.count
        needs_tune = bool(remaining.alone or unlisted)
        with ExitStack() as connected:
            if self._only_drives or needs_tune:
                connected.enter_context(self._connect())
                require_resources(self._scaling)
            if not self._recorder.out_of_time:
                self._cache_trunks(remaining)
            for batch in remaining.batches:
                if not self._recorder.out_of_time:
                    self._train_together(batch)
            if needs_tune and not self._recorder.out_of_time:
                self._tune(remaining.alone)
        publishing = Publishing(mover, self._fence, self._recorder.say)
        ended = EndedSweep(
            self._store, self._id, self._sweep, self._recorder, self._spec_of, self._train_run
        )
        return ended.finish(publishing)

    def _remaining(self) -> _Remaining:
        ended = self._recorder.records
        by_number = {t.number: t for t in self._plan.trials if t.number not in ended}
        batches = [
            [by_number.pop(number) for number in numbers if number in by_number]
            for numbers in self._plan.batches
        ]
        return _Remaining([batch for batch in batches if batch], list(by_number.values()))

    def _cache_trunks(self, remaining: _Remaining) -> None:
        """Compute the activations that trials share: on Ray's workers, else in this process."""
        readers = list(remaining.alone)
        for batch in remaining.batches:
            augment = batch[0].spec.augment
            live = isinstance(augment, StandardAugment) and augment.views == "live"
            # A batch reads live views once for all its heads, and nobody reads them again.
            readers += batch[:1] if live else batch
        if self._only_drives:
            device = "cuda" if self._scaling.gpus_per_worker else "cpu"
            filler = Filler(device, self._measure_on_ray, self._fill_on_ray)
        else:
            set_up_process(available_cpus())
            filler = fill_here(self._recorder)
        persist(lambda: cache_shared_trunks(self._store, readers, filler, self._recorder))

    def _train_together(self, batch: Sequence[Trial]) -> None:
        """Train heads as one computation: in a task on Ray, else in this process."""

        def train() -> list[Progress]:
            left = self._recorder.seconds_left
            if self._only_drives:
                return batch_on_ray(self._setup, batch, self._scaling, left)
            ranks = Ranks.alone(set_up_process(available_cpus()))
            process = TrialProcess(self._store, self._id, self._setup.selection, ranks)
            return train_together(process, batch, self._recorder.advanced, left)

        outcomes: list[Progress] = []
        try:
            outcomes = persist(train)
        except ResourceError:
            raise  # not this batch's fault: the sweep ends
        except Exception as error:  # this batch's alone, the store's too: the sweep goes on
            for trial in batch:
                self._recorder.record(trial, error=error_line(error))
        for trial, progress in zip(batch, outcomes, strict=False):
            self._recorder.record(trial, progress)

    def _tune(self, alone: Sequence[Trial]) -> None:
        """Train trials in Tune's actors."""
        warm = warm_trials(self._store, self._sweep)
        search = make_search(self._sweep, alone, self._recorder.records.values(), warm)
        tune_trials(self._sweep, search, self._make_trial, self._recorder, self._setup)

    def _make_trial(self, suggestion: Suggestion) -> Trial:
        """Return a suggested trial: from the plan, if that lists trials, else resolved now."""
        number, changes = suggestion.number, suggestion.changes
        if self._plan.trials:
            return self._plan.trial(number)
        spec = self._resolver.resolve(changes).spec
        return Trial(number=number, id=trial_id(spec), changes=changes, spec=spec, trunk=None)

    def _spec_of(self, record: TrialRecord) -> Finetune:
        """Return the spec of a trial that has ended."""
        trial = self._make_trial(Suggestion(record.number, record.changes))
        if trial.changes == record.changes:
            return trial.spec
        # Population-based training changed values on the way: the record has the last ones.
        return trial_spec(trial.spec, record.changes, f"trial {record.number}")

    def _train_run(self, run: str) -> Result:
        """Train the best trial again, as a run of its own."""
        self._recorder.say(f"training the best trial again: run {run}")
        with self._connect():
            return run_finetune(self._store, run, self._recorder.pass_on)

    def _fill_on_ray(
        self, cache: ActivationCache, setup: TrunkSetup, entries: Sequence[CacheEntry]
    ) -> FillResult:
        return fill_on_ray(
            cache,
            self._task_setup(setup),
            entries,
            LeaseTerms(waiting=self._recorder.waiting),
            progress=self._recorder.computing,
        )

    def _measure_on_ray(self, cache: ActivationCache, setup: TrunkSetup) -> Measurement:
        return measure_on_ray(cache, self._task_setup(setup))

    def _task_setup(self, setup: TrunkSetup) -> TaskSetup:
        resources = TaskResources(self._scaling.cpus_per_worker, self._scaling.gpus_per_worker)
        return TaskSetup(setup.model, setup.preprocess, self._sweep.base.loader, resources)
