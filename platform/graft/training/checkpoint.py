"""Checkpoints: a `TrainingState` as tensors and a marker, below its attempt's folder.

A checkpoint is the tail, its moving average, the optimiser, the random generators and the
position; of the frozen trunk it holds only the digest.
"""

import re
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.trunk import tensors_to_bytes
from graft.spec import Section
from graft.store import ObjectRef, Store
from graft.training.loop import TrainingState
from graft.training.runs import Epoch

_MARKER = re.compile(r"runs/[^/]+/attempt-(\d+)/checkpoints/(\d+)/checkpoint\.json")


class Checkpoint(Section):
    """The marker ``checkpoints/<step>/checkpoint.json``."""

    run: str
    attempt: int
    epoch: int
    """Finished epochs."""
    step: int
    """Finished optimiser steps."""
    freeze: int
    """Freeze depth of the last finished epoch."""
    trunk_digest: str
    """At that depth."""
    initial: dict[str, Any]
    """Validation before any training."""
    history: tuple[Epoch, ...]
    """All finished epochs, the last one's validation among them."""
    best_epoch: int
    """The first epoch with the best validation accuracy."""
    best: str | None = Field(default=None)
    """Folder of the best epoch's checkpoint; null: this one."""
    tensors: ObjectRef

    @property
    def folder(self) -> str:
        """The store's folder that the tensors lie in."""
        return checkpoint_folder(self.run, self.attempt, self.step)


def checkpoint_folder(run: str, attempt: int, step: int) -> str:
    """Return where a checkpoint lies."""
    return f"runs/{run}/attempt-{attempt}/checkpoints/{step:08d}"


def save_checkpoint(
    store: Store,
    run: str,
    attempt: int,
    state: TrainingState,
    freeze: int,
    trunk_digest: str,
    initial: dict[str, Any],
    history: tuple[Epoch, ...],
    previous: Checkpoint | None,
) -> Checkpoint:
    """Commit a checkpoint, then drop those that are neither the latest nor the best."""
    folder = checkpoint_folder(run, attempt, state.step)
    best = max(history, key=lambda done: (done.val["accuracy"], -done.epoch))
    before = (previous.best or previous.folder) if previous else None
    checkpoint = Checkpoint(
        run=run,
        attempt=attempt,
        epoch=state.epoch,
        step=state.step,
        freeze=freeze,
        trunk_digest=trunk_digest,
        initial=initial,
        history=history,
        best_epoch=best.epoch,
        best=None if best.epoch == state.epoch else before,
        tensors=store.put(folder, "tensors.safetensors", tensors_to_bytes(_flatten(state))),
    )
    store.create(f"{folder}/checkpoint.json", checkpoint.model_dump_json(indent=1).encode())
    kept = {folder, checkpoint.best}
    for other, (_, owner) in _checkpoints(store, run):
        # A newer attempt may be under way already: what it keeps is its own affair.
        if other not in kept and owner <= attempt:
            store.delete(f"{other}/checkpoint.json")  # first the marker, then what it commits
            for key, _ in store.scan(f"{other}/"):
                store.delete(key)
    return checkpoint


def latest_checkpoint(store: Store, run: str) -> Checkpoint | None:
    """Return the furthest committed checkpoint of a run's attempts."""
    found = max(_checkpoints(store, run), key=lambda item: item[1], default=None)
    return read_checkpoint(store, found[0]) if found else None


def read_checkpoint(store: Store, folder: str) -> Checkpoint:
    """Read the marker of a committed checkpoint."""
    return Checkpoint.model_validate_json(store.read(f"{folder}/checkpoint.json").data)


def load_state(store: Store, checkpoint: Checkpoint) -> TrainingState:
    """Read a checkpoint's tensors."""
    flat = load_tensors(store.get(checkpoint.folder, checkpoint.tensors))
    return _unflatten(checkpoint.epoch, checkpoint.step, flat)


def _unflatten(epoch: int, step: int, flat: dict[str, Tensor]) -> TrainingState:
    tails: dict[str, dict[str, Tensor]] = {"tail": {}, "average": {}}
    optimizer: dict[str, dict[str, Tensor]] = {}
    rng: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        kind, _, rest = name.partition("/")
        if kind in tails:
            tails[kind][rest] = value
        elif kind == "optimizer":
            parameter, _, slot = rest.rpartition("/")
            optimizer.setdefault(parameter, {})[slot] = value
        else:
            rank, _, device = rest.partition("/")
            rng.setdefault(int(rank), {})[device] = value
    generators = [rng[rank] for rank in sorted(rng)]
    return TrainingState(epoch, step, tails["tail"], tails["average"], optimizer, generators)


def state_to_bytes(state: TrainingState) -> bytes:
    """Serialise a state, its position too, as safetensors; for what is no checkpoint of a run."""
    position = {"position": torch.tensor([state.epoch, state.step])}
    return tensors_to_bytes(_flatten(state) | position)


def state_from_bytes(data: bytes) -> TrainingState:
    """Read what `state_to_bytes` wrote."""
    flat = load_tensors(data)
    epoch, step = flat.pop("position").tolist()
    return _unflatten(epoch, step, flat)


def _flatten(state: TrainingState) -> dict[str, Tensor]:
    flat = {f"tail/{name}": value for name, value in state.tail.items()}
    flat |= {f"average/{name}": value for name, value in state.average.items()}
    for name, slots in state.optimizer.items():
        flat |= {f"optimizer/{name}/{slot}": value for slot, value in slots.items()}
    for rank, generators in enumerate(state.rng):
        flat |= {f"rng/{rank}/{device}": value for device, value in generators.items()}
    return flat


def _checkpoints(store: Store, run: str) -> list[tuple[str, tuple[int, int]]]:
    """Return the folder of every committed checkpoint, and (step, attempt)."""
    found = []
    for key, _ in store.scan(f"runs/{run}/"):
        if match := _MARKER.fullmatch(key):
            attempt, step = int(match[1]), int(match[2])
            found.append((key.rpartition("/")[0], (step, attempt)))
    return found
