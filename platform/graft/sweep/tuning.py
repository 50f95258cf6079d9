"""Trials in Tune's actors: where Tune gets them from, and who records what they come to."""

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from graft.errors import GraftError, ResourceError, SpecError, StoreError
from graft.spec import PBT, Sweep
from graft.store import Store
from graft.sweep.actor import POINT, TrialActor, epochs_of
from graft.sweep.ledger import Ledger
from graft.sweep.plan import Trial
from graft.sweep.results import State, TrialRecord
from graft.sweep.schedule import concurrency, make_scheduler
from graft.sweep.search import Search
from graft.sweep.space import Changes
from graft.sweep.trial import Compared

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""Environment in which Tune says nothing, and leaves Ctrl-C to the driver."""

PAUSES = 4
"""Newest states of a trial that Tune keeps on disk, for schedulers that pause and copy trials."""


def tune_trials(
    store: Store,
    sweep_id: str,
    sweep: Sweep,
    search: Search,
    planned: Callable[[int, Changes], Trial],
    compared: Compared,
    ledger: Ledger,
    sharing: int,
) -> None:
    """Train what a search asks for in Tune's actors, until it asks no more or the time is up.

    Args:
        store: where trials are recorded.
        sweep_id: the sweep's id.
        sweep: its spec.
        search: the source of trials.
        planned: from a trial's number and changes to the trial.
        compared: what trials are compared by.
        ledger: told of everything.
        sharing: how many trials that nobody knows yet read the same activations; 0: all are
            known, and what is worth keeping is kept by now.

    Raises:
        ResourceError: its scheduler copies trials, and the connected Ray has several nodes.
        StoreError: the sweep cannot go on.
    """
    scaling, nested = sweep.base.scaling, sweep.base.scaling.workers > 1
    if not nested:
        _require_one_node(sweep)
    if nested and sweep.scheduler.kind != "none":
        ledger.say("trials of several workers train all their epochs: no scheduler stops them")
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    population = isinstance(sweep.scheduler, PBT)
    source = Source(search, planned, ledger, sweep)
    watcher = Watcher(ledger, source)
    actor = tune.with_parameters(
        TrialActor,
        uri=store.uri,
        sweep_id=sweep_id,
        compared=compared,
        mutates=population,
        sharing=sharing,
    )
    # A nested trial's own actor only waits: the workers' resources are theirs to ask for.
    resources: dict[str, float] = {"node:__internal_head__": 0.001}
    if not nested:
        resources = {"CPU": scaling.cpus_per_worker}
        if scaling.gpus_per_worker:
            resources["GPU"] = scaling.gpus_per_worker
    left = ledger.seconds_left
    with tempfile.TemporaryDirectory(prefix="graft-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(actor, resources),
            # Tune's population-based training takes its trials from no search.
            param_space={POINT: tune.grid_search(source.all_at_once())} if population else None,
            tune_config=tune.TuneConfig(
                search_alg=None if population else source,
                scheduler=None if nested else make_scheduler(sweep),
                num_samples=1 if population else -1,
                reuse_actors=True,
                max_concurrent_trials=concurrency(sweep),
                time_budget_s=None if left is None else max(1.0, left),
            ),
            run_config=tune.RunConfig(
                name=sweep_id,
                storage_path=scratch,
                verbose=0,
                callbacks=[watcher],
                stop=Interruption(source),
                # An error of a trial is a result: what fails here is a process that died.
                failure_config=tune.FailureConfig(max_failures=scaling.max_restarts),
                # Nobody reads what Tune would keep of a trial at its end, and an actor on another
                # node than the driver's could not write it.
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=PAUSES, checkpoint_at_end=False
                ),
            ),
        )
        with _interruptible(source):
            tuner.fit()
    watcher.finish()


def _require_one_node(sweep: Sweep) -> None:
    """Refuse schedulers that pause and copy trials where the driver's disk is not the trials'."""
    if sweep.scheduler.kind not in ("pbt", "hyperband"):
        return
    here = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU")
    ]
    if others:
        raise ResourceError(
            f"scheduler.kind: {sweep.scheduler.kind} copies trials over one machine's disk, and "
            f"this Ray has {len(others)} nodes beside the driver's; use asha, median or none"
        )


class Source(Searcher):  # type: ignore[misc]
    """Gives Tune the trials of a search."""

    def __init__(
        self,
        search: Search,
        planned: Callable[[int, Changes], Trial],
        ledger: Ledger,
        sweep: Sweep,
    ):
        super().__init__(metric="value", mode=sweep.search.mode)
        self._ledger, self._base = ledger, sweep.base
        self._search = search
        self._planned = planned
        self._trials: dict[int, Trial] = {}
        self.fatal: str | None = None
        """What keeps the sweep from going on."""
        self.interrupted = False
        """Whether the user wants it to stop."""

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles what it would restore a sweep from, and Graft never does."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's config."""
        while not self.over and (asked := self._search.ask()):
            try:
                trial = self._planned(*asked)
            except SpecError as error:  # values that do not go together
                number, changes = asked
                trial = Trial(number=number, id="", changes=changes, spec=self._base, trunk=None)
                self.learn(self._ledger.record(trial, "failed", error=str(error)))
                continue
            return {POINT: self._point(trial)}
        finished: str = Searcher.FINISHED
        return finished

    @property
    def over(self) -> bool:
        """Whether no more is to be trained."""
        return self.interrupted or self.fatal is not None

    def all_at_once(self) -> list[dict[str, Any]]:
        """Return the points of all trials: what population-based training begins with."""
        points = []
        while asked := self._search.ask():
            points.append(self._point(self._planned(*asked)))
        return points

    def trial(self, trial: TuneTrial) -> Trial:
        """Return the trial that Tune speaks of."""
        return self._trials[trial.config[POINT]["number"]]

    def _point(self, trial: Trial) -> dict[str, Any]:
        self._trials[trial.number] = trial
        return {
            "number": trial.number,
            "trial": trial.model_dump_json(by_alias=True),
            "values": dict(trial.changes),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the search is told of what is recorded."""

    def learn(self, record: TrialRecord) -> None:
        """Tell the search what a trial came to."""
        self._search.tell(record)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a sweep goes on from its plan and its recorded trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


class Interruption(tune.Stopper):  # type: ignore[misc]
    """Has Tune end in good order, its actors with it."""

    def __init__(self, source: Source):
        self._source = source

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing, as the source of trials."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether all is to stop."""
        return self._source.over


@contextlib.contextmanager
def _interruptible(source: Source) -> Iterator[None]:
    """Have Ctrl-C, a first one, stop the trials and then end the sweep.

    Raises:
        KeyboardInterrupt: it was.
    """
    main = threading.current_thread() is threading.main_thread()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if source.interrupted:
            raise KeyboardInterrupt
        source.interrupted = True

    before = [(s, signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)]
    if main:
        for number, _ in before:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        if main:
            for number, handler in before:
                signal.signal(number, handler)
    if source.interrupted:
        raise KeyboardInterrupt


class Watcher(tune.Callback):  # type: ignore[misc]
    """Shows and records what Tune's trials come to; in the driver's process."""

    def __init__(self, ledger: Ledger, source: Source):
        self._ledger, self._source = ledger, source
        self._progress: dict[str, dict[str, Any]] = {}
        self._trials: dict[str, Trial] = {}
        self._began: dict[str, float] = {}
        self._recorded: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing, as the source of trials."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Tell that a trial has begun."""
        self._began.setdefault(trial.trial_id, time.monotonic())
        ours = self._trials[trial.trial_id] = self._source.trial(trial)
        self._ledger.advanced(ours, None)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Tell of an epoch."""
        progress = self._progress[trial.trial_id] = json.loads(result["progress"])
        ours = self._source.trial(trial)
        epochs = epochs_of(progress)
        if epochs:
            self._ledger.advanced(ours, epochs[-1])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record a trial that ended, or was stopped."""
        progress = self._progress.get(trial.trial_id, {})
        if fatal := progress.get("fatal"):
            self._source.fatal = fatal
            return
        error, diverged = progress.get("error"), progress.get("diverged")
        state: State = "finished" if progress.get("ended") else "stopped"
        state = "failed" if error else "diverged" if diverged else state
        self._done(trial, state, error or diverged)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record a trial whose process died."""
        if self._source.fatal is None:
            last = str(trial.get_error() or "").strip().rpartition("\n")[2]
            self._done(trial, "failed", f"its process died: {last}" if last else "its process died")

    def finish(self) -> None:
        """Record what was running when the time was up.

        Raises:
            StoreError: what kept the sweep from going on.
        """
        if self._source.fatal:
            raise StoreError(self._source.fatal)
        for name, progress in self._progress.items():
            if name not in self._recorded and progress.get("epochs"):
                self._note(name, self._trials[name], "stopped", None)

    def _done(self, trial: TuneTrial, state: State, error: str | None) -> None:
        """Record a trial; what goes wrong with that ends the sweep, and not the trial."""
        try:
            self._note(trial.trial_id, self._source.trial(trial), state, error)
        except GraftError as fatal:
            self._source.fatal = str(fatal)
        except KeyboardInterrupt:
            self._source.interrupted = True

    def _note(self, name: str, ours: Trial, state: State, error: str | None) -> None:
        progress = self._progress.get(name, {})
        self._recorded.add(name)
        values = progress.get("values", ours.changes)
        record = self._ledger.record(
            ours.model_copy(update={"changes": values}),
            state,
            epochs_of(progress),
            time.monotonic() - self._began.get(name, time.monotonic()),
            run=progress.get("run"),
            checkpoint=progress.get("checkpoint"),
            error=error,
        )
        self._ledger.trunk_images += progress.get("trunk_images", 0)
        self._source.learn(record)
