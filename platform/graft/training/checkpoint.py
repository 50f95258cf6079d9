"""Checkpoints: a `TrainingState` as tensors and a marker, below its attempt's folder.

A checkpoint is the tail, its moving average, the optimiser, the random generators and the
position; of the frozen trunk it holds only the digest.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.trunk import tensors_to_bytes
from graft.errors import ObjectDamaged, ObjectNotFound, StoreError
from graft.spec import Digest, Finetune, Id, Section
from graft.store import Marker, ObjectRef, Store, document_bytes, read_document
from graft.training.loop import TrainingState
from graft.training.moving_average import copy_into
from graft.training.prepare_run import PreparedRun, assemble
from graft.training.run_records import Epoch
from graft.training.step_checkpoint import StepCheckpoint, step_checkpoints

_FOLDER = r"^runs/[^/]+/attempt-\d+/checkpoints/\d+$"
_MARKER = re.compile(r"runs/[^/]+/attempt-(\d+)/checkpoints/(\d+)/checkpoint\.json")


class Checkpoint(Section, Marker):
    """The marker ``checkpoints/<step>/checkpoint.json``."""

    FORMAT: ClassVar[int] = 2
    """1: the confusion matrices of all epochs were within `history`."""

    run: Id
    attempt: int
    epoch: int
    """Finished epochs."""
    step: int
    """Finished optimiser steps."""
    freeze: int
    """Freeze depth of the last finished epoch."""
    trunk_digest: Digest
    """Digest of the trunk at that depth."""
    initial: dict[str, Any]
    """Validation before any training."""
    history: tuple[Epoch, ...]
    """All finished epochs; the last one is this checkpoint's."""
    confusion: ObjectRef | None = None
    """The last epoch's confusion matrix; null: an earlier release wrote it into `history`."""
    best_epoch: int
    """The best epoch so far, see `best_epoch_and_stopping`."""
    best: str | None = Field(default=None, pattern=_FOLDER)
    """Folder of the best epoch's checkpoint; null: this one."""
    tensors: ObjectRef

    @property
    def folder(self) -> str:
        """The store's folder that the tensors lie in."""
        return checkpoint_folder(self.run, self.attempt, self.step)

    @property
    def best_folder(self) -> str:
        """The folder of the best epoch's checkpoint, which may be this one."""
        return self.best or self.folder


def checkpoint_folder(run: str, attempt: int, step: int) -> str:
    """Return the store's folder of the checkpoint after an optimiser step."""
    return f"runs/{run}/attempt-{attempt}/checkpoints/{step:08d}"


def put_state(store: Store, folder: str, state: TrainingState) -> ObjectRef:
    """Write the tensors of a checkpoint, which its marker commits afterwards."""
    return store.put(folder, "tensors.safetensors", tensors_to_bytes(_flatten(state)))


def commit_checkpoint(
    store: Store, checkpoint: Checkpoint, previous: Checkpoint | None = None
) -> None:
    """Write a checkpoint's marker, then delete those that neither it nor `previous` needs.

    `previous` is the run's last checkpoint before this one. It stays until the next one is
    committed: a newer attempt, of which this one does not know yet, may go on from it.
    """
    store.create(f"{checkpoint.folder}/checkpoint.json", document_bytes(checkpoint))
    delete_others(store, checkpoint, previous)


def delete_others(store: Store, checkpoint: Checkpoint, previous: Checkpoint | None = None) -> None:
    """Delete a run's checkpoints but for these two and those with their best epochs' weights."""
    needed = {checkpoint.folder, checkpoint.best}
    if previous:
        needed |= {previous.folder, previous.best}
    for other in _committed(store, checkpoint.run):
        # A newer attempt may be under way already, and decides on its own checkpoints.
        if other.folder not in needed and other.attempt <= checkpoint.attempt:
            # First the marker, then what it commits.
            store.delete(f"{other.folder}/checkpoint.json")
            for key, _ in store.scan(f"{other.folder}/"):
                store.delete(key)


def latest_checkpoint(store: Store, run: str) -> Checkpoint | None:
    """Return the furthest committed checkpoint of a run's attempts."""
    latest = max(_committed(store, run), default=None)
    return read_checkpoint(store, latest.folder) if latest else None


def read_checkpoint(store: Store, folder: str) -> Checkpoint:
    """Read the marker of a committed checkpoint."""
    return read_document(store, f"{folder}/checkpoint.json", Checkpoint)


def load_state(store: Store, checkpoint: Checkpoint) -> TrainingState:
    """Read a checkpoint's tensors."""
    position = checkpoint.epoch, checkpoint.step
    return read_state(store, checkpoint.folder, checkpoint.tensors, *position)


@dataclass(frozen=True)
class Position:
    """Where a run goes on inside an epoch."""

    checkpoint: StepCheckpoint
    state: TrainingState


def find_position(
    store: Store, run: str, epochs: int, say: Callable[[str], object]
) -> Position | None:
    """Return a run's furthest state inside the epoch after so many; None: the epoch begins anew.

    `say` is told in a line what is damaged, and left out.
    """

    def tell(error: StoreError) -> None:
        say(f"a checkpoint inside epoch {epochs + 1} is left out: {error}")

    for checkpoint in step_checkpoints(store, run, epochs, tell):
        try:
            return Position(checkpoint, load_step_state(store, checkpoint))
        except (ObjectDamaged, ObjectNotFound) as error:
            tell(error)
    return None


def load_step_state(store: Store, checkpoint: StepCheckpoint) -> TrainingState:
    """Read the tensors of a checkpoint inside an epoch."""
    position = checkpoint.epoch, checkpoint.step, checkpoint.done
    return read_state(store, checkpoint.folder, checkpoint.tensors, *position)


def read_state(
    store: Store, folder: str, tensors: ObjectRef, epoch: int, step: int, done: int = 0
) -> TrainingState:
    """Read what `put_state` wrote; the position stands in the marker.

    Raises:
        ObjectDamaged: it is not what the marker committed, or holds no tensors.
    """
    data = store.get(folder, tensors)
    try:
        return _unflatten(epoch, step, done, load_tensors(data))
    except (SafetensorError, ValueError) as error:
        raise ObjectDamaged(f"{store.uri}/{folder}/{tensors.name} is damaged: {error}") from error


def state_to_bytes(state: TrainingState) -> bytes:
    """Serialise a state and its position as safetensors, for what is no checkpoint of a run."""
    position = {"position": torch.tensor([state.epoch, state.step, state.done])}
    return tensors_to_bytes(_flatten(state) | position)


def state_from_bytes(data: bytes) -> TrainingState:
    """Read what `state_to_bytes` wrote."""
    flat = load_tensors(data)
    epoch, step, done = flat.pop("position").tolist()
    return _unflatten(epoch, step, done, flat)


def _flatten(state: TrainingState) -> dict[str, Tensor]:
    flat = {f"tail/{name}": value for name, value in state.tail.items()}
    flat |= {f"average/{name}": value for name, value in state.average.items()}
    for name, slots in state.optimizer.items():
        flat |= {f"optimizer/{name}/{slot}": value for slot, value in slots.items()}
    for rank, generators in enumerate(state.rng):
        flat |= {f"rng/{rank}/{device}": value for device, value in generators.items()}
    flat |= {f"sums/{rank}": value for rank, value in enumerate(state.sums)}
    return flat


def _unflatten(epoch: int, step: int, done: int, flat: dict[str, Tensor]) -> TrainingState:
    tails: dict[str, dict[str, Tensor]] = {"tail": {}, "average": {}}
    optimizer: dict[str, dict[str, Tensor]] = {}
    rng: dict[int, dict[str, Tensor]] = {}
    sums: dict[int, Tensor] = {}
    for name, value in flat.items():
        kind, _, rest = name.partition("/")
        if kind in tails:
            tails[kind][rest] = value
        elif kind == "optimizer":
            parameter, _, slot = rest.rpartition("/")
            optimizer.setdefault(parameter, {})[slot] = value
        elif kind == "sums":
            sums[int(rest)] = value
        else:
            rank, _, device = rest.partition("/")
            rng.setdefault(int(rank), {})[device] = value
    generators, by_rank = [rng[rank] for rank in sorted(rng)], [sums[rank] for rank in sorted(sums)]
    return TrainingState(
        epoch, step, tails["tail"], tails["average"], optimizer, generators, done, by_rank
    )


@dataclass(frozen=True, order=True)
class _Committed:
    """A committed checkpoint; the furthest one is the greatest."""

    step: int
    attempt: int
    folder: str


def _committed(store: Store, run: str) -> list[_Committed]:
    """Return all committed checkpoints of a run's attempts."""
    keys = (key for key, _ in store.scan(f"runs/{run}/"))
    markers = (match for key in keys if (match := _MARKER.fullmatch(key)))
    return [_Committed(int(m[2]), int(m[1]), m[0].rpartition("/")[0]) for m in markers]


def load_checkpoint_model(
    store: Store, spec: Finetune, last: Checkpoint, weights: Literal["best", "last"]
) -> tuple[PreparedRun, Checkpoint]:
    """Return a run's model with the weights of its best or last epoch, and that epoch's checkpoint.

    `last` is the run's last checkpoint. The weights are the moving average if the recipe has one.
    """
    chosen = read_checkpoint(store, last.best) if weights == "best" and last.best else last
    # What was frozen in the chosen epoch may have been trained since: start from a new model.
    prepared = assemble(store, spec, chosen.freeze)
    state = load_state(store, chosen)
    copy_into(prepared.model.network.state_dict(), state.average or state.tail)
    return prepared, chosen
