"""Trials in Tune's actors: Tune asks for the next trial, and the driver records each that ends."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from graft.errors import GraftError, ResourceError, SpecError, StoreError
from graft.spec import PBT, Finetune, Scaling, Sweep
from graft.sweep.ray_tune_actor import ASSIGNMENT, ActorSetup, Assignment, TrialActor, TrialUpdate
from graft.sweep.ray_tune_scheduler import concurrency, make_scheduler
from graft.sweep.search import Suggestion, TrialSearch
from graft.sweep.sweep_plan import Trial
from graft.sweep.trial_recorder import TrialRecorder
from graft.training.events import REPORT_EVERY_S, Board
from graft.training.ray_train import open_board

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""Environment in which Tune prints nothing, and leaves Ctrl-C to the driver."""
PAUSES = 4
"""Snapshots of a trial that Tune has on disk, the newest ones; some schedulers pause and copy
trials."""

MakeTrial = Callable[[Suggestion], Trial]
"""Makes the trial that a search suggests.

Raises:
    SpecError: the suggested values do not go together.
"""


def tune_trials(
    sweep: Sweep,
    search: TrialSearch,
    make_trial: MakeTrial,
    recorder: TrialRecorder,
    setup: ActorSetup,
) -> None:
    """Train the trials that a search suggests in Tune's actors, until it ends or time is up.

    Args:
        sweep: the sweep's spec.
        search: suggests trials, and learns from those that end.
        make_trial: makes a trial of a suggestion.
        recorder: records each trial that ends.
        setup: what actors have to know about the sweep.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
        ResourceError: the scheduler copies trials, and the connected Ray has several nodes.
        StoreError: the sweep cannot go on.
    """
    scaling = sweep.base.scaling
    nested = scaling.workers > 1
    if not nested:
        _require_one_node(sweep)
    elif sweep.scheduler.kind != "none":
        recorder.say("trials of several workers train all their epochs: no scheduler stops them")
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Tune's population-based training takes no searcher: it starts from a grid of all trials.
    population = isinstance(sweep.scheduler, PBT)
    stop = SweepStop()
    # Where trials compute themselves what they read, they may wait for one another for hours.
    board = open_board() if nested or setup.readers_per_trunk else None
    watcher = TrialWatcher(recorder, search, stop, board)
    actor = tune.with_parameters(TrialActor, setup=replace(setup, board=board))
    searcher = None if population else TuneSearcher(search, make_trial, recorder, sweep, stop)
    seconds_left = recorder.seconds_left
    with tempfile.TemporaryDirectory(prefix="graft-tune-") as scratch, _ctrl_c_stops(stop):
        tune.Tuner(
            tune.with_resources(actor, _resources(scaling)),
            param_space=_grid_of_all(search, make_trial) if population else None,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=None if nested else make_scheduler(sweep),
                num_samples=1 if population else -1,
                reuse_actors=True,
                max_concurrent_trials=concurrency(sweep),
                time_budget_s=None if seconds_left is None else max(1.0, seconds_left),
            ),
            run_config=_run_config(setup.sweep_id, scratch, scaling, watcher, stop),
        ).fit()
    watcher.pass_on_messages()
    stop.raise_reason()
    watcher.record_unfinished()


def _run_config(
    name: str, folder: str, scaling: Scaling, watcher: "TrialWatcher", stop: "SweepStop"
) -> tune.RunConfig:
    return tune.RunConfig(
        name=name,
        storage_path=folder,
        verbose=0,
        callbacks=[watcher],
        stop=stop,
        # A trial's error is a result: Tune restarts a trial only if its process died.
        failure_config=tune.FailureConfig(max_failures=scaling.max_restarts),
        # Nobody reads a checkpoint that Tune takes at a trial's end, and an actor on another node
        # than the driver's could not write it.
        checkpoint_config=tune.CheckpointConfig(num_to_keep=PAUSES, checkpoint_at_end=False),
    )


def _require_one_node(sweep: Sweep) -> None:
    """Refuse schedulers that pause and copy trials if trials do not share the driver's disk."""
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


def _resources(scaling: Scaling) -> dict[str, float]:
    """Return what Ray reserves for a trial's actor."""
    if scaling.workers > 1:
        # The actor only waits: the trial's workers reserve resources of their own.
        return {"node:__internal_head__": 0.001}
    gpus = {"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {}
    return {"CPU": scaling.cpus_per_worker, **gpus}


def _grid_of_all(search: TrialSearch, make_trial: MakeTrial) -> dict[str, Any]:
    """Return the space of configs in which Tune finds every trial of a search once."""
    assignments = []
    while suggestion := search.ask():
        assignments.append(_config_of(make_trial(suggestion))[ASSIGNMENT])
    return {ASSIGNMENT: tune.grid_search(assignments)}


def _config_of(trial: Trial) -> dict[str, Any]:
    return Assignment(trial, trial.changes).to_config()


def _trial_of(tune_trial: TuneTrial) -> Trial:
    return Assignment.from_config(tune_trial.config).trial


class _Stateless:
    """Pickled without content: Tune pickles its parts for a restore, and Graft never restores them.

    A sweep is resumed from its plan and its recorded trials.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SweepStop(_Stateless, tune.Stopper):  # type: ignore[misc]
    """Whether all trials have to stop, and why; Tune asks it, and ends its actors in good order."""

    def __init__(self) -> None:
        self.interrupted = False
        """Whether the user wants the sweep to stop."""
        self.fatal: GraftError | None = None
        """Why the sweep cannot go on; None: it can."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials have to stop."""
        return self.interrupted or self.fatal is not None

    def raise_reason(self) -> None:
        """Raise the reason to stop, if there is one.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C.
            GraftError: the sweep cannot go on: the store fails, or it was overtaken.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        if self.fatal is not None:
            raise self.fatal


@contextlib.contextmanager
def _ctrl_c_stops(stop: SweepStop) -> Iterator[None]:
    """Have a first Ctrl-C stop all trials in good order, and a second one raise at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.interrupted:
            raise KeyboardInterrupt
        stop.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    for number, handler in before:
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):  # as nohup sets it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class TuneSearcher(_Stateless, Searcher):  # type: ignore[misc]
    """Gives Tune the trials that a search suggests."""

    def __init__(
        self,
        search: TrialSearch,
        make_trial: MakeTrial,
        recorder: TrialRecorder,
        sweep: Sweep,
        stop: SweepStop,
    ):
        super().__init__(metric="value", mode=sweep.search.mode)
        self._search, self._make_trial = search, make_trial
        self._recorder, self._stop = recorder, stop
        self._base: Finetune = sweep.base

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's config; a trial that cannot be made is recorded as failed."""
        while not self._stop.stop_all() and (suggestion := self._search.ask()):
            try:
                return _config_of(self._make_trial(suggestion))
            except SpecError as error:
                number, changes = suggestion.number, suggestion.changes
                trial = Trial(number=number, id="", changes=changes, spec=self._base, trunk=None)
                self._search.tell(self._recorder.record(trial, error=str(error)))
        finished: str = Searcher.FINISHED
        return finished

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the search learns from the record that `TrialWatcher` makes."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: see `_Stateless`."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


@dataclass(frozen=True)
class _Watched:
    """A trial that has not been recorded yet."""

    trial: Trial
    update: TrialUpdate | None = None
    """The newest one; None: the trial has finished no step."""


class TrialWatcher(_Stateless, tune.Callback):  # type: ignore[misc]
    """Shows the progress of Tune's trials and records those that end; in the driver's process."""

    def __init__(
        self,
        recorder: TrialRecorder,
        search: TrialSearch,
        stop: SweepStop,
        board: ActorHandle[Board] | None = None,
    ):
        self._recorder, self._search, self._stop = recorder, search, stop
        self._board, self._looked = board, 0.0
        self._watched: dict[str, _Watched] = {}
        """By Tune's trial id."""

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Show that a trial has begun, or resumes after a pause."""
        self._watched[trial.trial_id] = self._watch(trial)
        self._recorder.advanced(_trial_of(trial), None)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Show an epoch."""
        update = TrialUpdate.model_validate_json(result["update"])
        watched = self._watched[trial.trial_id] = replace(self._watch(trial), update=update)
        if update.progress.epochs:
            self._recorder.advanced(watched.trial, update.progress.epochs[-1])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record a trial that ended by itself, or that the scheduler stopped."""
        update = self._watch(trial).update
        if update and update.fatal:
            self._stop.fatal = StoreError(update.fatal)
        else:
            self._try_to_record(trial, update.error if update else None)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Record a trial whose process died."""
        if self._stop.fatal is None:
            last = str(trial.get_error() or "").strip().rpartition("\n")[2]
            died = "its process died"
            self._try_to_record(trial, f"{died}: {last}" if last else died)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Show what trials say in the middle of a step; Tune calls this all the time."""
        if time.monotonic() - self._looked > REPORT_EVERY_S:
            self._looked = time.monotonic()
            self.pass_on_messages()

    def pass_on_messages(self) -> None:
        """Show the messages on the board."""
        if self._board:
            for event in ray.get(self._board.take.remote()):
                self._recorder.pass_on(event)

    def record_unfinished(self) -> None:
        """Record the trials that were running when the time was up."""
        for trial_id, watched in list(self._watched.items()):
            if watched.update and watched.update.progress.epochs:
                self._record(trial_id, watched, None)

    def _watch(self, trial: TuneTrial) -> _Watched:
        """Return what is watched of a trial, under the config that Tune gives it now."""
        watched = self._watched.get(trial.trial_id)
        ours = _trial_of(trial)
        return replace(watched, trial=ours) if watched else _Watched(ours)

    def _try_to_record(self, trial: TuneTrial, error: str | None) -> None:
        """Record a trial; if that fails, the whole sweep stops, and not this trial alone."""
        try:
            self._record(trial.trial_id, self._watch(trial), error)
        except GraftError as failure:
            self._stop.fatal = failure
        except KeyboardInterrupt:
            self._stop.interrupted = True

    def _record(self, trial_id: str, watched: _Watched, error: str | None) -> None:
        self._watched.pop(trial_id, None)
        update = watched.update or TrialUpdate(values=watched.trial.changes)
        trial = watched.trial.model_copy(update={"changes": update.values})
        record = self._recorder.record(trial, update.progress, error)
        self._search.tell(record)
