"""The actor in which Tune trains one trial after another; each step is an epoch.

After every step a trial's progress travels to the driver, as JSON within Tune's result. An error
of a trial travels the same way, so that Tune itself sees no error and the sweep goes on.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
import ray.exceptions
from ray import tune
from ray.actor import ActorHandle

from graft.backbones.process_setup import set_up_process
from graft.errors import GraftError, ObjectExists, ResourceError, StoreError
from graft.spec import Changes, Scaling, Section, trial_spec
from graft.store import Store
from graft.store.retries import persist
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import trial_epochs
from graft.sweep.trial import (
    Keeping,
    Progress,
    Selection,
    Snapshot,
    TrialProcess,
    train_together,
    train_trial,
)
from graft.sweep.trial_checkpoint import TrialKeeper
from graft.training.checkpoint import latest_checkpoint, state_from_bytes, state_to_bytes
from graft.training.checkpoint_clock import CheckpointClock
from graft.training.events import Board, Event, Note, Notice, Untrained, Validated
from graft.training.ray_train import run_finetune
from graft.training.run_records import create_run
from graft.training.worker_group import Ranks

ASSIGNMENT, TRIAL, VALUES = "assignment", "trial", "values"
"""Keys of Tune's config: {assignment: {trial: JSON, values: {dotted key: value}}}."""
EPOCH = "epoch"
"""Key of a result that has the number of finished epochs: of a trial that goes on where another
process left it, more than Tune has counted steps."""
STATE, PROGRESS = "state.safetensors", "progress.json"
"""Files that a paused trial is stored in."""
WORST = 1e9
"""Value of a trial without a finite metric, for a scheduler; negative where more is better."""


@dataclass(frozen=True)
class Assignment:
    """A trial that Tune assigns to an actor, as Tune's config has it.

    The trial is JSON there, so that Tune neither searches in it nor changes it. Its values stand
    beside it, where population-based training changes them.
    """

    trial: Trial
    values: Changes
    """The trial's changes as they are now."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read an assignment from Tune's config."""
        assignment = config[ASSIGNMENT]
        return cls(Trial.model_validate_json(assignment[TRIAL]), assignment[VALUES])

    def to_config(self) -> dict[str, Any]:
        """Return Tune's config; its only key is `ASSIGNMENT`."""
        trial = self.trial.model_dump_json(by_alias=True)
        return {ASSIGNMENT: {TRIAL: trial, VALUES: dict(self.values)}}


class TrialUpdate(Section):
    """What an actor tells the driver after each step of a trial."""

    values: Changes
    """The trial's changes as they are now: population-based training changes them on the way."""
    progress: Progress = Progress()
    error: str | None = None
    """What this trial failed of, on one line; null: it did not fail."""
    fatal: str | None = None
    """Why the whole sweep cannot go on, on one line; null: it can."""

    @property
    def done(self) -> bool:
        """Whether the trial takes no further step."""
        return self.progress.ended or bool(self.error or self.fatal)


@dataclass(frozen=True)
class ActorSetup:
    """What an actor has to know about the sweep, the same for all its trials."""

    store_uri: str
    sweep_id: str
    selection: Selection
    mutates: bool
    """Whether population-based training changes a trial's values."""
    readers_per_trunk: int
    """How many trials are expected to read the same activations, where the plan does not list the
    trials; 0: it does, and the driver has cached what is worth caching."""
    keeps: bool = False
    """Whether trials that are under way have checkpoints in the store."""
    board: ActorHandle[Board] | None = None
    """Where actors leave messages for people; None: nobody reads them."""


@dataclass(frozen=True)
class _CurrentTrial:
    """The trial that an actor trains now; replaced after each step."""

    assignment: Assignment
    resumed: Snapshot | None
    """What it began with; None: it began at its start."""
    steps: Iterator[Snapshot]
    """The steps that are left; nothing is done before the first is taken."""
    latest: Snapshot
    """The trial after its last step."""


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains one trial after another; a step is an epoch."""

    _current: _CurrentTrial

    def setup(self, config: dict[str, Any], *, setup: ActorSetup) -> None:
        """Get ready for the first trial."""
        self._setup = setup
        self._store = Store.open(setup.store_uri)
        self._process: TrialProcess | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial."""
        self._take_on(Assignment.from_config(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch; return the value that a scheduler compares, and a `TrialUpdate`."""
        error: str | None = None
        fatal: str | None = None
        try:
            latest = persist(self._next)
            self._current = replace(self._current, latest=latest)
        except ResourceError as failure:  # not this trial's fault: the sweep ends
            fatal = error_line(failure)
        except Exception as failure:  # this trial's alone, the store's too: the sweep goes on
            error = error_line(failure)
        values, progress = self._current.assignment.values, self._current.latest.progress
        update = TrialUpdate(values=values, progress=progress, error=error, fatal=fatal)
        return {
            "value": self._compared_value(progress),
            EPOCH: len(progress.epochs),
            "done": update.done,
            "update": update.model_dump_json(),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the latest snapshot, for schedulers that pause or copy trials."""
        latest = self._current.latest
        if latest.training is not None:
            folder = Path(checkpoint_dir)
            (folder / STATE).write_bytes(state_to_bytes(latest.training))
            (folder / PROGRESS).write_text(latest.progress.model_dump_json())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Resume from a snapshot that this trial, or another one, wrote."""
        folder = Path(checkpoint)
        snapshot: Snapshot | None = None
        if (folder / STATE).exists():
            progress = Progress.model_validate_json((folder / PROGRESS).read_text())
            snapshot = Snapshot(progress, state_from_bytes((folder / STATE).read_bytes()))
        self._take_on(self._current.assignment, snapshot)

    def _next(self) -> Snapshot:
        """Take the next step; where the store fails it, begin the trial again for the next try."""
        try:
            return next(self._current.steps)
        except StoreError:
            self._take_on(self._current.assignment, self._current.resumed)
            raise

    def _take_on(self, assignment: Assignment, resumed: Snapshot | None = None) -> None:
        nested = assignment.trial.spec.scaling.workers > 1
        steps = self._nested(assignment.trial) if nested else self._alone(assignment, resumed)
        latest = resumed or Snapshot(Progress(), None)
        self._current = _CurrentTrial(assignment, resumed, steps, latest)

    def _compared_value(self, progress: Progress) -> float:
        selection = self._setup.selection
        value = None
        if progress.epochs and not progress.diverged:
            value = progress.epochs[-1].value_of(selection.metric)
        worst = -WORST if selection.mode == "max" else WORST
        return worst if value is None else value

    def _alone(self, assignment: Assignment, resumed: Snapshot | None) -> Iterator[Snapshot]:
        """Train in this process."""
        trial = assignment.trial
        scaling, readers = trial.spec.scaling, self._setup.readers_per_trunk
        if self._process is None:
            device = set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker)
            ranks = Ranks.alone(device)
            sweep_id, selection = self._setup.sweep_id, self._setup.selection
            self._process = TrialProcess(self._store, sweep_id, selection, ranks)

        def waiting(holder: str) -> None:
            self._say(trial, f"waiting for activations that {holder} computes")

        if self._setup.mutates:
            spec = trial_spec(trial.spec, assignment.values, f"trial {trial.number}")
            trial = trial.model_copy(update={"spec": spec})
        began = time.monotonic()
        keeper = None
        if self._setup.keeps:
            keeper = TrialKeeper(
                self._store, self._setup.sweep_id, trial, lambda text: self._say(trial, text)
            )
            resumed = resumed or keeper.find()
        if resumed:
            images = resumed.progress.trunk_images
        else:
            images = self._process.fill(trial.spec, readers, waiting) if readers else 0
        filling_s = time.monotonic() - began

        def with_filling(snapshot: Snapshot) -> Snapshot:
            total = images + snapshot.progress.trunk_images
            setup_s = filling_s + snapshot.progress.setup_s
            update = {"trunk_images": total, "setup_s": setup_s}
            return replace(snapshot, progress=snapshot.progress.model_copy(update=update))

        keeping = None
        if keeper:
            keep = keeper.keep
            every, ranks = trial.spec.train.checkpoint, self._process.ranks
            clock = CheckpointClock(every, ranks, lambda: Notice.NONE)
            keeping = Keeping(clock, lambda snapshot: keep(with_filling(snapshot)))
        try:
            for snapshot in train_trial(self._process, trial, resumed, keeping):
                yield with_filling(snapshot)
        finally:
            if keeper:
                keeper.settle()

    def _nested(self, trial: Trial) -> Iterator[Snapshot]:
        """Train on several workers, as a run of its own; an earlier process may have begun it."""
        run = self._run_of(trial)
        last = latest_checkpoint(self._store, run)
        history = [epoch.numbers() for epoch in last.history] if last else []
        epochs, diverged = trial_epochs([(e.epoch, e.train, e.val) for e in history])
        began = ready = time.monotonic()

        def so_far() -> Progress:
            return Progress(
                epochs=epochs,
                diverged=diverged,
                run=run,
                setup_s=ready - began,
                seconds=time.monotonic() - ready,
            )

        for event in _events_of(self._store, run):
            if isinstance(event, Note):
                self._say(trial, event.text)
            if isinstance(event, Untrained):
                ready = time.monotonic()
            if not isinstance(event, Validated):
                continue
            finite, diverged = trial_epochs([(event.epoch, event.train, event.val)])
            epochs += finite
            if event.epoch < trial.spec.train.epochs:
                yield Snapshot(so_far(), None)
        checkpoint = latest_checkpoint(self._store, run)
        folder = checkpoint.folder if checkpoint else None
        yield Snapshot(so_far().model_copy(update={"checkpoint": folder, "ended": True}), None)

    def _run_of(self, trial: Trial) -> str:
        """Return the id of a trial's run: by its number, unless that trained something else."""
        try:
            return create_run(
                self._store, trial.spec, f"{self._setup.sweep_id}-trial-{trial.number}"
            )
        except ObjectExists:  # a search that goes on may suggest other values
            return create_run(self._store, trial.spec)

    def _say(self, trial: Trial, text: str) -> None:
        """Leave a message for people: in the middle of a step, no result of Tune's carries one."""
        if self._setup.board:
            self._setup.board.post.remote(Note(f"trial {trial.number}: {text}"))


def _events_of(store: Store, run: str) -> Iterator[Event]:
    """Train a run on Ray Train's workers in a thread; yield its events."""
    events: queue.Queue[Any] = queue.Queue()

    def train() -> None:
        try:
            run_finetune(store, run, events.put)
            events.put(_RunEnded(None))
        except Exception as error:
            events.put(_RunEnded(error))

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    while not isinstance(event := events.get(), _RunEnded):
        yield event
    if event.error is not None:
        raise event.error
    thread.join()


@dataclass(frozen=True)
class _RunEnded:
    """A run's last event."""

    error: Exception | None


def batch_on_ray(
    setup: ActorSetup, batch: Sequence[Trial], scaling: Scaling, seconds: float | None
) -> list[Progress]:
    """Train heads as one computation, in a task on the connected Ray; see `train_together`."""

    def train() -> list[Progress]:
        ranks = Ranks.alone(set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker))
        store = Store.open(setup.store_uri)
        process = TrialProcess(store, setup.sweep_id, setup.selection, ranks)
        return train_together(process, batch, lambda trial, epoch: None, seconds)

    task = ray.remote(num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker)(train)
    try:
        outcomes: list[Progress] = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    return outcomes


def error_line(error: Exception) -> str:
    """Return an error's text on one line, with its type unless it is Graft's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GraftError) else f"{type(error).__name__}: {text}"
