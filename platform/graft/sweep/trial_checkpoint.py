"""Checkpoints of trials that are under way: what a sweep that was killed goes on from.

sweeps/<sweep>/under-way/<number>/<step>/{state, checkpoint.json (last)}

A trial has one, the newest; it goes when the trial is recorded. Trials that take over others'
weights, or wait for them, have none: see `KEEPING`.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from safetensors import SafetensorError

from graft.errors import ObjectDamaged, ObjectExists, ObjectNotFound, StoreError
from graft.spec import Id, Section
from graft.store import Marker, ObjectRef, Store, document_bytes, read_document
from graft.sweep.sweep_plan import Trial
from graft.sweep.trial import Progress, Snapshot
from graft.training.background import Background, copy_of
from graft.training.checkpoint import state_from_bytes, state_to_bytes

KEEPING = ("none", "asha", "median")
"""Kinds of schedulers whose trials have them."""


class TrialCheckpoint(Section, Marker):
    """The marker ``under-way/<number>/<step>/checkpoint.json``."""

    FORMAT: ClassVar[int] = 1

    sweep: Id
    number: int
    """The trial's number."""
    trial: str
    """Id of what it trains: a search may suggest something else under the same number."""
    step: int
    """Finished optimiser steps."""
    progress: Progress
    """Up to its last finished epoch."""
    state: ObjectRef

    @property
    def folder(self) -> str:
        """The store's folder that the state lies in."""
        return f"{_folder(self.sweep, self.number)}{self.step:08d}"


class TrialKeeper:
    """Keeps the newest checkpoint of a trial, and finds what an earlier process has kept."""

    def __init__(self, store: Store, sweep_id: str, trial: Trial, say: Callable[[str], object]):
        """`say`: told in a line what cannot be kept, or read."""
        self._store, self._sweep_id, self._trial, self._say = store, sweep_id, trial, say
        self._background = Background()

    def find(self) -> Snapshot | None:
        """Return what the trial goes on from; None: its start."""
        prefix = _folder(self._sweep_id, self._trial.number)
        keys = [key for key, _ in self._store.scan(prefix) if key.endswith("/checkpoint.json")]
        for key in sorted(keys, reverse=True):
            try:
                checkpoint = read_document(self._store, key, TrialCheckpoint)
                if checkpoint.trial != self._trial.id:
                    continue
                data = self._store.get(checkpoint.folder, checkpoint.state)
                return Snapshot(checkpoint.progress, state_from_bytes(data))
            except ObjectNotFound:  # removed since
                continue
            except (ObjectDamaged, SafetensorError, ValueError, KeyError) as error:
                self._say(f"a checkpoint is left out: {error}")
        return None

    def keep(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot, from a copy; left out where another is still under way."""
        if snapshot.training is None or self._background.is_busy:
            return
        copy = replace(snapshot, training=copy_of(snapshot.training))
        self._background.begin(lambda: self._write(copy))

    def settle(self) -> None:
        """Wait until nothing is being written."""
        self._background.settle()

    def _write(self, snapshot: Snapshot) -> None:
        state = snapshot.training
        if state is None:
            return
        number = self._trial.number
        folder = f"{_folder(self._sweep_id, number)}{state.step:08d}"
        try:
            checkpoint = TrialCheckpoint(
                sweep=self._sweep_id,
                number=number,
                trial=self._trial.id,
                step=state.step,
                progress=snapshot.progress,
                state=self._store.put(folder, "state.safetensors", state_to_bytes(state)),
            )
            with contextlib.suppress(ObjectExists):  # of an earlier process, which came as far
                self._store.create(f"{folder}/checkpoint.json", document_bytes(checkpoint))
            remove_trial_checkpoints(self._store, self._sweep_id, number, folder)
        except StoreError as error:
            self._say(f"no checkpoint was written, training goes on: {error}")


def remove_trial_checkpoints(
    store: Store, sweep_id: str, number: int, kept: str | None = None
) -> None:
    """Remove a trial's checkpoints, but for the folder `kept`.

    Raises:
        StoreError: they cannot be removed.
    """
    keys = [key for key, _ in store.scan(_folder(sweep_id, number))]
    # First the markers, then what they commit.
    for key in sorted(keys, key=lambda key: not key.endswith("/checkpoint.json")):
        if key.rpartition("/")[0] != kept:
            store.delete(key)


def _folder(sweep_id: str, number: int) -> str:
    return f"sweeps/{sweep_id}/under-way/{number}/"
