"""What the first worker of an attempt does beyond training: report, commit, register."""

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graft.backbones.trunk import TrunkChain
from graft.spec import Finetune
from graft.store import Store
from graft.training.average import copy_into
from graft.training.checkpoint import Checkpoint, load_state, read_checkpoint, save_checkpoint
from graft.training.events import Event, Stepped, Validated
from graft.training.finish import register_model
from graft.training.loop import EpochDone, StepDone
from graft.training.pace import Pace
from graft.training.plots import confusion_png
from graft.training.prepare import Assembly, assemble
from graft.training.runs import Epoch, Head, Result, check_attempt, publish_result, put_metrics

REPORT_EVERY_S = 0.2


class Lead:
    """What the first worker does beyond training: report, commit, register."""

    def __init__(
        self,
        store: Store,
        run: str,
        head: Head,
        assembly: Assembly,
        chain: TrunkChain,
        post: Callable[[Event], object],
    ):
        self._store = store
        self._run = run
        self._head = head
        self._assembly = assembly
        self._chain = chain
        self._post = post
        self._shown = 0.0

    def stepped(self, done: StepDone, pace: Pace) -> None:
        """Report a step, though not each: reading its numbers makes a GPU wait."""
        now = time.monotonic()
        if now - self._shown >= REPORT_EVERY_S or done.step == done.steps:
            self._shown = now
            so_far = done.tally.summary()
            self._post(
                Stepped(
                    done.epoch,
                    done.step,
                    done.steps,
                    so_far["loss"],
                    so_far["accuracy"],
                    pace.images_per_second,
                )
            )

    def finish_epoch(
        self,
        done: EpochDone,
        initial: dict[str, Any],
        previous: Checkpoint | None,
        pace: Pace,
    ) -> Checkpoint:
        """Commit an epoch's checkpoint, metrics and TensorBoard events.

        Raises:
            RunFailed: overtaken by a newer attempt.
        """
        check_attempt(self._store, self._run, self._head)
        epoch = Epoch(epoch=done.epoch, train=done.train, val=done.val)
        history = (*(previous.history if previous else ()), epoch)
        depth = self._assembly.plan.depth(done.epoch)
        checkpoint = save_checkpoint(
            self._store,
            self._run,
            self._head.attempt,
            done.state,
            depth,
            self._chain.digests[depth],
            initial,
            history,
            previous,
        )
        put_metrics(self._store, self._run, self._head.attempt, epoch)
        self._write_events(epoch, done.state.step)
        self._post(Validated(done.epoch, done.train, done.val, pace.images_per_second))
        return checkpoint

    def finish(self, spec: Finetune, last: Checkpoint, pace: Pace, started: float) -> None:
        """Register the chosen weights and publish the result."""
        check_attempt(self._store, self._run, self._head)
        target = spec.register_
        chosen = last
        if (target is None or target.weights == "best") and last.best:
            chosen = read_checkpoint(self._store, last.best)
        # What was frozen in the chosen epoch may have been trained since: begin anew.
        assembly = assemble(self._store, spec, chosen.freeze)
        state = load_state(self._store, chosen)
        copy_into(assembly.model.network.state_dict(), state.average or state.tail)
        epoch = chosen.history[-1]
        version = None
        if target:
            version = register_model(
                self._store, self._run, spec, target, assembly, self._chain, epoch
            )
        png = confusion_png(epoch.val["confusion"], assembly.dataset.manifest.classes)
        manifest = assembly.dataset.manifest
        result = Result(
            run=self._run,
            model=version.ref if version else None,
            weights=target.weights if target else "best",
            epoch=epoch.epoch,
            metrics={"initial": last.initial, "train": epoch.train, "val": epoch.val},
            seconds=round(time.time() - started, 3),
            images_per_second=round(pace.overall, 2),
            trunk_digest=chosen.trunk_digest,
            freeze=chosen.freeze,
            dataset=f"{manifest.name}@{manifest.version}",
            attempt=self._head.attempt,
            plan=self._assembly.plan.stages,
            confusion_png=self._store.put(f"runs/{self._run}", "confusion.png", png),
            history=tuple(
                {
                    "epoch": e.epoch,
                    "train_loss": e.train["loss"],
                    "train_accuracy": e.train["accuracy"],
                    "val_loss": e.val["loss"],
                    "val_accuracy": e.val["accuracy"],
                }
                for e in last.history
            ),
            created=datetime.now(UTC).isoformat(),
        )
        publish_result(self._store, self._head, result)

    def _write_events(self, epoch: Epoch, step: int) -> None:
        """Write one TensorBoard event file per epoch: S3 cannot append, TensorBoard reads many."""
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory(prefix="graft-events-") as folder:
            with SummaryWriter(folder, filename_suffix=f".{epoch.epoch:06d}") as writer:
                for part, numbers in (("train", epoch.train), ("val", epoch.val)):
                    for name, value in numbers.items():
                        if isinstance(value, float):
                            writer.add_scalar(f"{part}/{name}", value, step)
            for file in Path(folder).iterdir():
                key = f"runs/{self._run}/attempt-{self._head.attempt}/events/{file.name}"
                self._store.write(key, file.read_bytes())
