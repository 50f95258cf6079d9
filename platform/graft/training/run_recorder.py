"""Writes what a run comes to into the store; only the first worker of an attempt has a recorder.

It reports steps, commits a checkpoint and metrics after each epoch and checkpoints inside it, and
in the end registers the model and publishes the result.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft.backbones.trunk import TrunkChain
from graft.registry import Mover
from graft.spec import Finetune
from graft.store import Store
from graft.training.amendments import read_amendments
from graft.training.attempt_pointer import AttemptPointer, check_attempt
from graft.training.best_epoch_and_stopping import Criterion
from graft.training.charts import confusion_png
from graft.training.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    commit_checkpoint,
    delete_others,
    load_checkpoint_model,
    put_state,
)
from graft.training.confusion_matrix import put_confusion, read_confusion
from graft.training.events import (
    REPORT_EVERY_S,
    Event,
    Note,
    Saved,
    Stepped,
    Untrained,
    Validated,
)
from graft.training.loop import EpochDone, InsideEpoch, LoopEvent, StepDone
from graft.training.pace_and_watchdog import Pace
from graft.training.prepare_run import PreparedRun
from graft.training.publish_model import Origin, Publishing, TrainedModel, register_model
from graft.training.run_records import (
    Epoch,
    Result,
    publish_result,
    put_metrics,
    run_folder,
)
from graft.training.step_checkpoint import StepCheckpoint, step_folder
from graft.training.step_writer import StepWriter


@dataclass
class RunRecorder:
    """Writes checkpoints, metrics, the model and the result of an attempt, and reports on it."""

    store: Store
    run: str
    spec: Finetune
    """The run's."""
    pointer: AttemptPointer
    """To this attempt."""
    prepared: PreparedRun
    chain: TrunkChain
    """Digests of the trunk."""
    post: Callable[[Event], object]
    last: Checkpoint | None
    """The last epoch's committed checkpoint, of this attempt or of one before it."""
    inside: StepCheckpoint | None
    """What the attempt goes on from inside the epoch after it; None: that epoch's beginning."""
    _initial: dict[str, float] = field(init=False)
    """Validation before any training; from the first checkpoint on, that holds it."""
    _pace: Pace = field(default_factory=Pace)
    _reported: float = 0.0
    """When a step was last reported, on the monotonic clock."""
    _writer: StepWriter = field(init=False)

    def __post_init__(self) -> None:
        self._initial = self.inside.initial if self.inside else {}
        self._writer = StepWriter(self.store, self.run, self.pointer, self._say, self._saved)

    def follow(self, event: LoopEvent) -> None:
        """Do what an event of the training loop asks for.

        Raises:
            RunFailed: overtaken by a newer attempt.
        """
        if isinstance(event, StepDone):
            self._writer.background.check()
            self._pace.step(event)
            self._report_step(event)
        elif isinstance(event, InsideEpoch):
            self._begin_step_checkpoint(event)
        elif isinstance(event, Untrained):
            self._initial = event.val
            self.post(event)
            self._pace.begin_epoch()
        elif isinstance(event, EpochDone):
            self._commit_epoch(event)
            self._pace.begin_epoch()

    def settle(self) -> None:
        """Wait until no checkpoint is being written."""
        self._writer.background.settle()

    def _begin_step_checkpoint(self, inside: InsideEpoch) -> None:
        """Have a checkpoint inside an epoch written; the last one before the end is waited for."""
        state, last = inside.state, self.last
        depth = self.prepared.plan.depth(state.epoch + 1)
        draft = partial(
            StepCheckpoint,
            run=self.run,
            attempt=self.pointer.attempt,
            epoch=state.epoch,
            step=state.step,
            done=state.done,
            steps=inside.steps,
            workers=len(state.rng),
            freeze=depth,
            trunk_digest=self.chain.digests[depth],
            initial=last.initial if last else self._initial,
        )
        folder = step_folder(self.run, self.pointer.attempt, state.step)
        self._writer.write(folder, state, lambda ref: draft(tensors=ref), wait=inside.last)

    def _saved(self, saved: StepCheckpoint) -> None:
        self.post(Saved(saved.epoch + 1, saved.done, saved.steps, saved.tensors.size))

    def _say(self, text: str) -> None:
        self.post(Note(text))

    def _report_step(self, done: StepDone) -> None:
        """Report a step, though not each: reading its numbers makes a GPU wait."""
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S and done.step < done.steps:
            return
        self._reported = now
        so_far = done.tally.summary()
        loss, accuracy = so_far["loss"], so_far["accuracy"]
        pace = self._pace.images_per_second
        self.post(Stepped(done.epoch, done.step, done.steps, loss, accuracy, pace))

    def _commit_epoch(self, done: EpochDone) -> None:
        """Commit an epoch's checkpoint, then its metrics and TensorBoard events."""
        self._writer.background.settle()
        self._writer.background.check()
        self._fence()
        last, attempt, step = self.last, self.pointer.attempt, done.state.step
        epoch = Epoch(epoch=done.epoch, train=done.train, val=done.val)
        history = (*(earlier.numbers() for earlier in (last.history if last else ())), epoch)
        best = self._best(epoch)
        depth = self.prepared.plan.depth(done.epoch)
        folder = checkpoint_folder(self.run, attempt, step)
        self.last = Checkpoint(
            run=self.run,
            attempt=attempt,
            epoch=done.epoch,
            step=step,
            freeze=depth,
            trunk_digest=self.chain.digests[depth],
            initial=last.initial if last else self._initial,
            history=history,
            confusion=put_confusion(
                self.store, folder, done.confusion, self.prepared.dataset.manifest.classes
            ),
            best_epoch=best.epoch,
            best=last.best_folder if last and best is not epoch else None,
            tensors=put_state(self.store, folder, done.state),
        )
        commit_checkpoint(self.store, self.last, last)
        self._writer.clear()
        put_metrics(self.store, self.run, attempt, epoch)
        self._write_events(epoch, step)
        self.post(Validated(done.epoch, done.train, done.val, self._pace.images_per_second))

    def _best(self, epoch: Epoch) -> Epoch:
        """Return the best epoch so far: this one, or that of the last checkpoint.

        Not of the whole history: earlier releases went by another rule, and of the epochs before
        this one only the weights of the one that they chose are there.
        """
        last = self.last
        if last is None:
            return epoch
        best = next(earlier for earlier in last.history if earlier.epoch == last.best_epoch)
        return epoch if Criterion.of(self.spec.train).better(epoch, best) else best

    def finish(self, started: float, mover: Mover) -> None:
        """Register the chosen weights and publish the result.

        `started` is when the user's command began, in seconds since 1970; `mover` is who moves the
        alias that the spec names.

        Raises:
            RunFailed: overtaken by a newer attempt.
        """
        last, spec, target = self.last, self.spec, self.spec.register_
        if last is None:  # a recipe has at least one epoch
            return
        self._fence()
        weights: Literal["best", "last"] = target.weights if target else "best"
        prepared, chosen = load_checkpoint_model(self.store, spec, last, weights)
        epoch, manifest = chosen.history[-1].numbers(), prepared.dataset.manifest
        model: str | None = None
        if target:
            trained = TrainedModel(Origin(spec, self.run), prepared, self.chain, epoch)
            publishing = Publishing(mover, self._fence, self._say)
            model = register_model(self.store, trained, target, publishing).ref
        confusion = _confusion_of(self.store, chosen)
        png = confusion_png(confusion, manifest.classes)
        amendments = read_amendments(self.store, self.run)
        result = Result(
            run=self.run,
            model=model,
            weights=weights,
            epoch=epoch.epoch,
            metrics={"initial": last.initial, "train": epoch.train, "val": epoch.val},
            seconds=round(time.time() - started, 3),
            images_per_second=round(self._pace.overall, 2),
            trunk_digest=chosen.trunk_digest,
            freeze=chosen.freeze,
            dataset=manifest.ref,
            attempt=self.pointer.attempt,
            plan=self.prepared.plan.stages,
            confusion=put_confusion(self.store, run_folder(self.run), confusion, manifest.classes),
            confusion_png=self.store.put(f"runs/{self.run}", "confusion.png", png),
            history=tuple(_summaries(last)),
            amendments=tuple(map(str, amendments)),
            bit_identical=all(amendment.is_exact for amendment in amendments),
            created=datetime.now(UTC).isoformat(),
        )
        publish_result(self.store, self.pointer, result)
        delete_others(self.store, last)

    def _fence(self) -> None:
        check_attempt(self.store, run_folder(self.run), self.pointer)

    def _write_events(self, epoch: Epoch, step: int) -> None:
        """Write one TensorBoard event file per epoch: S3 cannot append, TensorBoard reads many."""
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory(prefix="graft-events-") as folder:
            with SummaryWriter(folder, filename_suffix=f".{epoch.epoch:06d}") as writer:
                for part, metrics in (("train", epoch.train), ("val", epoch.val)):
                    for name, value in metrics.items():
                        if isinstance(value, float):
                            writer.add_scalar(f"{part}/{name}", value, step)
            for file in Path(folder).iterdir():
                key = f"runs/{self.run}/attempt-{self.pointer.attempt}/events/{file.name}"
                self.store.write(key, file.read_bytes())


def _confusion_of(store: Store, checkpoint: Checkpoint) -> NDArray[np.int64]:
    """Return the confusion matrix of a checkpoint's epoch."""
    if checkpoint.confusion is None:
        return np.array(checkpoint.history[-1].val["confusion"], np.int64)
    return read_confusion(store, checkpoint.folder, checkpoint.confusion).counts


def _summaries(last: Checkpoint) -> Iterator[dict[str, float]]:
    """Yield the loss and accuracy of every epoch."""
    for epoch in last.history:
        yield {
            "epoch": epoch.epoch,
            "train_loss": epoch.train["loss"],
            "train_accuracy": epoch.train["accuracy"],
            "val_loss": epoch.val["loss"],
            "val_accuracy": epoch.val["accuracy"],
        }
