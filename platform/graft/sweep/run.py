"""Sweeps on Ray: the driver.

Trials whose heads are trained as one computation need no Tune: nothing is to be scheduled
between them. All others run in Tune's actors, which stay for the next trial; those of several
workers nest Ray Train. A trial that is done is recorded in the store at once, by the driver,
so that one that was killed goes on from there.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch

from graft.activations.fill import Filled, Naming, Wanted
from graft.activations.worker import Scale, fill_on_ray
from graft.backbones.memory import keep_freed_memory
from graft.errors import Interrupted, ResourceError, StoreError
from graft.spec import Finetune, StandardAugment, trial_spec
from graft.store import Store
from graft.sweep.actor import batch_on_ray, device_of, on_a_line
from graft.sweep.finish import finish_sweep
from graft.sweep.keep import Filler, fill_here, share_activations
from graft.sweep.ledger import Ledger, Show
from graft.sweep.plan import Trial, trial_id
from graft.sweep.resolve import Resolver
from graft.sweep.results import (
    State,
    SweepResult,
    TrialRecord,
    read_plan,
    read_sweep,
    read_sweep_result,
    warm_trials,
)
from graft.sweep.search import make_search
from graft.sweep.space import Changes
from graft.sweep.trial import Bench, Compared, Progress, one_process, train_together
from graft.sweep.tuning import tune_trials
from graft.training.loop import Data
from graft.training.prepare import Assembly
from graft.training.runs import Result
from graft.training.worker import require_resources, run_finetune

Connect = Callable[[], AbstractContextManager[None]]


def run_sweep(store: Store, sweep_id: str, show: Show, connect: Connect) -> SweepResult:
    """Run, or go on with, a recorded sweep; return its result.

    Args:
        store: where the sweep is recorded.
        sweep_id: its id.
        show: called with what happens.
        connect: connects to Ray; a sweep of heads alone, on this machine, does without.

    Raises:
        Interrupted: Ctrl-C; trials that are done stay.
    """
    if result := read_sweep_result(store, sweep_id):
        return result
    try:
        return _Driver(store, sweep_id, show, connect).run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; trials that are done stay. Go on with: graft sweep --resume {sweep_id}"
        ) from None


class _Driver:
    """One command's work on a sweep."""

    def __init__(self, store: Store, sweep_id: str, show: Show, connect: Connect):
        self._store, self._id, self._connect = store, sweep_id, connect
        self._sweep = sweep = read_sweep(store, sweep_id)
        self._plan = read_plan(store, sweep_id)
        self._scaling = sweep.base.scaling
        self._resolved = Resolver(store, sweep.base)
        self._cluster = os.environ.get("RAY_ADDRESS") not in (None, "", "local")
        weights = sweep.register_.weights if sweep.register_ else "best"
        self._compared = Compared(sweep.search.metric, sweep.search.mode, weights)
        self._ledger = Ledger(store, sweep_id, self._compared, sweep.budget, show)

    def run(self) -> SweepResult:
        """Share activations, train what is left, and finish."""
        done = self._ledger.records
        left = [trial for trial in self._plan.trials if trial.number not in done]
        together, alone = self._divided(left)
        unknown = not self._plan.trials and len(done) < self._plan.count
        scheduled = bool(alone or unknown)
        with ExitStack() as connected:
            if self._cluster or scheduled:
                connected.enter_context(self._connect())
                require_resources(self._scaling)
            if not self._ledger.out_of_time:
                self._share(together, alone)
            for batch in together:
                if not self._ledger.out_of_time:
                    self._train_together(batch)
            if scheduled and not self._ledger.out_of_time:
                self._tune(alone)
        return finish_sweep(
            self._store,
            self._id,
            self._sweep,
            self._ledger,
            self._spec_of,
            self._train_run,
        )

    def _share(self, together: Sequence[Sequence[Trial]], alone: Sequence[Trial]) -> None:
        """Have the activations that trials share: computed by the cluster, else here."""
        reading = list(alone)
        for batch in together:
            # Heads that are trained together read an endless view once, and nobody will again.
            endless = isinstance(batch[0].spec.augment, StandardAugment) and (
                batch[0].spec.augment.views == "live"
            )
            reading += batch[:1] if endless else batch
        here = torch.device("cuda" if self._scaling.gpus_per_worker else "cpu")
        fill: Filler = self._fill_on_ray
        if not self._cluster:
            here = device_of(self._scaling)
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            keep_freed_memory()
            fill = fill_here(self._store, here, self._ledger)
        share_activations(self._store, reading, here.type, fill, self._ledger)

    def _divided(self, left: Sequence[Trial]) -> tuple[list[list[Trial]], list[Trial]]:
        """Return batches of trials to train as one computation, and those to train alone."""
        by_number = {trial.number: trial for trial in left}
        together = []
        for numbers in self._plan.batches:
            batch = [by_number.pop(number) for number in numbers if number in by_number]
            if batch:
                together.append(batch)
        return together, list(by_number.values())

    def _train_together(self, batch: Sequence[Trial]) -> None:
        """Train heads as one computation: in a task on the cluster, else here."""
        outcomes: list[tuple[Progress, float]] = []
        left = self._ledger.seconds_left
        try:
            if self._cluster:
                outcomes = batch_on_ray(
                    self._store.uri, self._id, self._compared, batch, self._scaling, left
                )
            else:
                ranks = one_process(device_of(self._scaling))
                bench = Bench(self._store, self._id, self._compared, ranks)
                outcomes = train_together(bench, batch, self._ledger.advanced, left)
        except (StoreError, ResourceError):
            raise  # of no trial
        except Exception as error:  # of this batch alone: the sweep goes on
            for trial in batch:
                self._ledger.record(trial, "failed", error=on_a_line(error))
        for trial, (progress, seconds) in zip(batch, outcomes, strict=False):
            state: State = "finished" if progress.ended else "stopped"
            state = "diverged" if progress.diverged else state
            self._ledger.trunk_images += progress.trunk_images
            self._ledger.record(
                trial,
                state,
                progress.epochs,
                seconds,
                checkpoint=progress.checkpoint,
                error=progress.diverged,
            )

    def _tune(self, alone: Sequence[Trial]) -> None:
        """Run trials in Tune's actors."""
        warm = warm_trials(self._store, self._sweep)
        search = make_search(self._sweep, alone, self._ledger.records.values(), warm)
        sharing = 0
        if not self._plan.trials:
            sharing = max(1, self._plan.count // max(1, len(self._plan.trunks)))
        tune_trials(
            self._store,
            self._id,
            self._sweep,
            search,
            self._planned,
            self._compared,
            self._ledger,
            sharing,
        )

    def _planned(self, number: int, changes: Changes) -> Trial:
        """Return a trial that the search asks for."""
        if self._plan.trials:
            return self._plan.trial(number)
        spec = self._resolved(changes).spec
        return Trial(number=number, id=trial_id(spec), changes=changes, spec=spec, trunk=None)

    def _spec_of(self, record: TrialRecord) -> Finetune:
        trial = self._planned(record.number, record.changes)
        if trial.changes == record.changes:
            return trial.spec
        # pbt changed them on the way: these are what it ended with.
        return trial_spec(trial.spec, record.changes, f"trial {record.number}")

    def _train_run(self, run: str) -> Result:
        """Train the best trial again, as a run of its own."""
        self._ledger.say(f"training the best trial again: run {run}")
        with self._connect():
            return run_finetune(self._store, run, lambda event: None)

    def _fill_on_ray(
        self, assembly: Assembly, data: Data, naming: Naming, wanted: Sequence[Wanted]
    ) -> Filled:
        scaling = self._scaling
        model = assembly.model.to(torch.device("cpu"))
        return fill_on_ray(
            self._store,
            data.dataset,
            model,
            naming,
            assembly.contract,
            self._sweep.base.loader,
            wanted,
            scale=Scale(scaling.cpus_per_worker, scaling.gpus_per_worker),
            waiting=self._ledger.waiting,
            progress=self._ledger.computing,
        )
