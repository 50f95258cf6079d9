"""Checkpoints inside an epoch: what a run goes on from until the epoch's own is committed.

runs/<run>/attempt-<n>/steps/<step>/{tensors, checkpoint.json (last)}

They are apart from those of epochs, which name one another: nothing names one of these, and any
may go once there is a later one. There is no torch here: `checkpoint` has the tensors.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graft.errors import ObjectDamaged, ObjectNotFound
from graft.spec import Digest, Id, Section
from graft.store import Marker, ObjectRef, Store, Tell, read_document

_ATTEMPT = re.compile(r"attempt-(\d{1,9})")
_MARKER = re.compile(r"(.*/steps/(\d{1,18}))/checkpoint\.json")
NotNegative = Annotated[int, Field(ge=0)]


class StepCheckpoint(Section, Marker):
    """The marker ``steps/<step>/checkpoint.json``."""

    FORMAT: ClassVar[int] = 1

    run: Id
    attempt: NotNegative
    epoch: NotNegative
    """Finished epochs."""
    step: NotNegative
    """Finished optimiser steps of the run."""
    done: NotNegative
    """Finished steps of the epoch that is under way."""
    steps: NotNegative
    """Steps of an epoch."""
    workers: NotNegative
    """How many trained."""
    freeze: NotNegative
    """Freeze depth of the epoch that is under way."""
    trunk_digest: Digest
    """Digest of the trunk at that depth."""
    initial: dict[str, Any]
    """Validation before any training."""
    tensors: ObjectRef

    @property
    def folder(self) -> str:
        """The store's folder that the tensors lie in."""
        return step_folder(self.run, self.attempt, self.step)

    @property
    def place(self) -> str:
        """Where in its epoch it was made, in words."""
        return f"in epoch {self.epoch + 1} after step {self.done}/{self.steps}"


def step_folder(run: str, attempt: int, step: int) -> str:
    """Return the store's folder of the checkpoint after an optimiser step inside an epoch."""
    return f"runs/{run}/attempt-{attempt}/steps/{step:08d}"


def latest_step_checkpoint(
    store: Store, run: str, epochs: int, tell: Tell | None = None
) -> StepCheckpoint | None:
    """Return a run's furthest checkpoint inside the epoch after so many; None: there is none.

    One whose marker is damaged is left out, and `tell` is told.
    """
    return next(step_checkpoints(store, run, epochs, tell), None)


def step_checkpoints(
    store: Store, run: str, epochs: int, tell: Tell | None = None
) -> Iterator[StepCheckpoint]:
    """Yield a run's checkpoints inside the epoch after so many, the furthest one first."""
    keys = (key for prefix in _prefixes(store, run) for key, _ in store.scan(prefix))
    markers = (match for key in keys if (match := _MARKER.fullmatch(key)))
    for _, folder in sorted(((int(match[2]), match[1]) for match in markers), reverse=True):
        try:
            checkpoint = read_step_checkpoint(store, folder)
        except ObjectNotFound:  # removed since
            continue
        except ObjectDamaged as error:
            if tell:
                tell(error)
            continue
        if checkpoint.epoch == epochs:
            yield checkpoint


def read_step_checkpoint(store: Store, folder: str) -> StepCheckpoint:
    """Read the marker of a committed checkpoint inside an epoch."""
    return read_document(store, f"{folder}/checkpoint.json", StepCheckpoint)


def remove_step_checkpoints(store: Store, run: str, attempt: int, kept: str | None = None) -> None:
    """Remove what attempts up to this one have inside epochs, committed or not, but for a folder.

    `kept`: that folder.
    """
    for prefix in _prefixes(store, run, attempt):
        keys = [key for key, _ in store.scan(prefix) if key.rpartition("/")[0] != kept]
        # First the markers, then what they commit.
        for key in sorted(keys, key=lambda key: not key.endswith("/checkpoint.json")):
            store.delete(key)


def _prefixes(store: Store, run: str, attempt: int | None = None) -> list[str]:
    """Return where a run's attempts, up to the one with this number, have such checkpoints."""
    attempts = [(_ATTEMPT.fullmatch(name), name) for name in store.children(f"runs/{run}/")]
    return [
        f"runs/{run}/{name}/steps/"
        for match, name in attempts
        if match and (attempt is None or int(match[1]) <= attempt)
    ]
