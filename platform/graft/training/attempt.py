"""One attempt at a run, as each of its workers goes through it; plain torch, no Ray.

Every worker drives the loop; the first one also claims the attempt, commits a
checkpoint after each epoch, and at the end registers the model and publishes the result.
"""

import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from graft.backbones.memory import keep_freed_memory
from graft.backbones.trunk import trunk_chain
from graft.data.loader import ImageLoader
from graft.errors import ResourceError, RunFailed
from graft.spec import Finetune
from graft.store import Store
from graft.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_state,
    read_checkpoint,
    save_checkpoint,
)
from graft.training.events import Event, Stalled, Started, Stepped, Validated
from graft.training.finish import register_model
from graft.training.loop import Data, EpochDone, StepDone, finetune
from graft.training.plots import confusion_png
from graft.training.prepare import Assembly, assemble
from graft.training.ranks import Ranks
from graft.training.runs import (
    Epoch,
    Head,
    Result,
    check_attempt,
    claim_attempt,
    publish_result,
    put_metrics,
    read_spec,
)

REPORT_EVERY_S = 0.2
STALLED_EXIT_CODE = 17
LAST_WORDS_S = 0.5
"""Time for an event to leave a process that is about to end."""


def run_attempt(
    store: Store, run: str, ranks: Ranks, post: Callable[[Event], object], started: float
) -> None:
    """Train a recorded run to its end, as one of `ranks`, from its last checkpoint.

    Args:
        store: where the run is recorded.
        run: the run's id.
        ranks: this worker among the others.
        post: told what happens: by the first worker, and by any that stalls.
        started: when the user's command began, in seconds since the epoch.

    Raises:
        ResourceError: a node does not see a directory store.
        RunFailed: overtaken by a newer attempt, or the trunk is not what it was.
    """
    _require_store(store, run, ranks)
    spec = read_spec(store, run)
    torch.set_num_threads(spec.scaling.cpus_per_worker)
    keep_freed_memory()
    if ranks.device.type == "cuda":
        _repeat_exactly()
    head: Head = ranks.from_first(claim_attempt(store, run) if ranks.rank == 0 else None)
    # One worker looks: another could meet a checkpoint that was committed meanwhile.
    checkpoint = ranks.from_first(latest_checkpoint(store, run) if ranks.rank == 0 else None)
    assembly = assemble(store, spec)
    model = assembly.model.to(ranks.device)
    chain = trunk_chain(model, assembly.contract)
    if checkpoint and checkpoint.trunk_digest != chain[-1]:
        raise RunFailed(
            f"{run}: the trunk built from the recorded weights has digest {chain[-1][:12]}, the "
            f"checkpoint was made on {checkpoint.trunk_digest[:12]}; the run cannot go on from it"
        )
    lead = Lead(store, run, head, post) if ranks.rank == 0 else None
    if lead:
        post(
            Started(
                head.attempt,
                checkpoint.epoch if checkpoint else 0,
                sum(p.numel() for _, p in model.named_tail_parameters()),
                model.stages.names[: model.depth],
                chain[-1],
            )
        )
    data = Data(
        ImageLoader(assembly.dataset, assembly.contract, spec.augment, spec.loader),
        assembly.dataset.images("train"),
        assembly.dataset.images("val"),
        assembly.dataset.manifest.classes,
        assembly.contract,
        spec.augment,
    )
    watchdog = Watchdog(spec.scaling.stall_timeout_s, lambda s: post(Stalled(ranks.rank, s)))
    pace = Pace()
    start = load_state(store, checkpoint) if checkpoint else None
    try:
        for event in finetune(model, data, spec.train, ranks, start):
            watchdog.alive()
            if isinstance(event, StepDone):
                pace.step(event)
                if lead:
                    lead.stepped(event, pace)
            elif isinstance(event, EpochDone) and lead:
                checkpoint = lead.finish_epoch(event, chain[-1], checkpoint, pace)
                watchdog.alive()
                pace.begin_epoch()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunFailed(
            f"{run}: a single image reached a trained BatchNorm layer whose map is one pixel, "
            "which has no statistics. Choose another train.batch_size, so that no worker gets "
            f"one image of the last batch of {len(data.train)}, or a larger preprocess.crop"
        ) from error
    finally:
        watchdog.stop()
    _prove_frozen(run, assembly, chain, ranks)
    if lead and checkpoint:
        lead.finish(spec, assembly, chain, checkpoint, pace, started)


def _repeat_exactly() -> None:
    """Have a GPU give the same float32 numbers every time, and those of a CPU within rounding."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


def _require_store(store: Store, run: str, ranks: Ranks) -> None:
    """Refuse a directory store that some worker's node does not see."""
    blind = None
    if not store.exists(f"runs/{run}/spec.yaml"):
        blind = socket.gethostname()
    nodes = sorted({node for node in ranks.gather(blind) if node})
    if nodes:
        raise ResourceError(
            f"the store {store.uri} is not visible on node {', '.join(nodes)}; "
            "use s3://..., or a directory that every node mounts at the same path"
        )


def _prove_frozen(run: str, assembly: Assembly, chain: list[str], ranks: Ranks) -> None:
    """Hash the trunk again on every worker; any drift fails the run."""
    names = assembly.model.stages.names
    after = trunk_chain(assembly.model, assembly.contract)
    moved = [i for i, (a, b) in enumerate(zip(chain, after, strict=True)) if a != b]
    for rank, first in enumerate(ranks.gather(moved[0] if moved else None)):
        if first is not None:
            raise RunFailed(
                f"{run}: frozen stage '{names[first - 1]}' changed during training on worker "
                f"{rank}; the run is void"
            )


class Lead:
    """What the first worker does beyond training: report, commit, register."""

    def __init__(self, store: Store, run: str, head: Head, post: Callable[[Event], object]):
        self._store = store
        self._run = run
        self._head = head
        self._post = post
        self._shown = 0.0

    def stepped(self, done: StepDone, pace: "Pace") -> None:
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
        self, done: EpochDone, trunk_digest: str, previous: Checkpoint | None, pace: "Pace"
    ) -> Checkpoint:
        """Commit an epoch's checkpoint, metrics and TensorBoard events."""
        check_attempt(self._store, self._run, self._head)
        if not math.isfinite(done.train["loss"] + done.val["loss"]):
            raise RunFailed(
                f"{self._run}: the loss of epoch {done.epoch} is not finite; training diverged. "
                "Lower train.optimizer.lr"
            )
        epoch = Epoch(epoch=done.epoch, train=done.train, val=done.val)
        history = (*(previous.history if previous else ()), epoch)
        checkpoint = save_checkpoint(
            self._store,
            self._run,
            self._head.attempt,
            done.state,
            trunk_digest,
            history,
            previous,
        )
        put_metrics(self._store, self._run, self._head.attempt, epoch)
        self._write_events(epoch, done.state.step)
        self._post(Validated(done.epoch, done.train, done.val, pace.images_per_second))
        return checkpoint

    def finish(
        self,
        spec: Finetune,
        assembly: Assembly,
        chain: list[str],
        last: Checkpoint,
        pace: "Pace",
        started: float,
    ) -> None:
        """Register the chosen weights and publish the result."""
        check_attempt(self._store, self._run, self._head)
        target = spec.register_
        chosen = last
        if (target is None or target.weights == "best") and last.best:
            chosen = read_checkpoint(self._store, last.best)
        own = assembly.model.network.state_dict()
        for name, value in load_state(self._store, chosen).tail.items():
            own[name].copy_(value)
        epoch = chosen.history[-1]
        version = None
        if target:
            version = register_model(self._store, self._run, spec, target, assembly, chain, epoch)
        manifest = assembly.dataset.manifest
        png = confusion_png(epoch.val["confusion"], manifest.classes)
        result = Result(
            run=self._run,
            model=version.ref if version else None,
            weights=target.weights if target else "best",
            epoch=epoch.epoch,
            metrics={"train": epoch.train, "val": epoch.val},
            seconds=round(time.time() - started, 3),
            images_per_second=round(pace.overall, 2),
            trunk_digest=chain[-1],
            freeze=assembly.model.depth,
            dataset=f"{manifest.name}@{manifest.version}",
            attempt=self._head.attempt,
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


class Pace:
    """Training images per second over all workers; time between epochs does not count."""

    def __init__(self) -> None:
        self._done = (0, 0.0)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start an epoch's clock."""
        self._began = time.monotonic()
        self._images, self._seconds = 0, 0.0

    def step(self, done: StepDone) -> None:
        """Count a step."""
        self._images += done.images
        self._seconds = time.monotonic() - self._began
        if done.step == done.steps:
            images, seconds = self._done
            self._done = (images + self._images, seconds + self._seconds)

    @property
    def images_per_second(self) -> float:
        """Over the epoch so far."""
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def overall(self) -> float:
        """Over all finished epochs of the attempt."""
        images, seconds = self._done
        return images / seconds if seconds else 0.0


class Watchdog:
    """Ends this process when training makes no progress for too long.

    A worker stuck in a collective or a read cannot raise; Ray Train restarts a dead one.
    """

    def __init__(self, timeout_s: float, tell: Callable[[float], object]):
        self._timeout_s = timeout_s
        self._tell = tell
        self._last = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        """Note progress."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._last > self._timeout_s:
                self._tell(self._timeout_s)
                time.sleep(LAST_WORDS_S)
                os._exit(STALLED_EXIT_CODE)
