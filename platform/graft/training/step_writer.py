"""Writes checkpoints inside an epoch while training goes on, from a copy of what is trained."""

from collections.abc import Callable

from graft.errors import StoreError
from graft.store import ObjectRef, Store, document_bytes
from graft.training.attempt_pointer import AttemptPointer, check_attempt
from graft.training.background import Background, copy_of
from graft.training.checkpoint import put_state
from graft.training.loop import TrainingState
from graft.training.run_records import run_folder
from graft.training.step_checkpoint import StepCheckpoint, remove_step_checkpoints

Draft = Callable[[ObjectRef], StepCheckpoint]
"""Makes the marker, once the tensors are in the store."""


class StepWriter:
    """Writes an attempt's checkpoints inside epochs, one at a time, in a thread.

    Each takes the place of the one before; `clear` removes the last one. A store that fails is said
    and no more: the run has the checkpoint before. An attempt that was overtaken ends.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        pointer: AttemptPointer,
        say: Callable[[str], object],
        committed: Callable[[StepCheckpoint], object],
    ):
        """`say`: told in a line what went wrong; `committed`: called, in a thread, with each."""
        self._store, self._run, self._pointer = store, run, pointer
        self._say, self._committed = say, committed
        self.background = Background()
        """What writes; whoever trains asks it now and then whether the attempt was overtaken."""
        self._stale = True
        """Whether there may be something to remove."""

    def write(self, folder: str, state: TrainingState, draft: Draft, wait: bool = False) -> bool:
        """Copy a state and begin to write it, or leave it out; return which.

        It is left out where the one before is still under way.

        Args:
            folder: the store's folder of the checkpoint.
            state: its tensors are those being trained.
            draft: makes the marker.
            wait: write this one whatever is under way, and return when it is done.

        Raises:
            RunFailed: the attempt was overtaken by a newer one.
        """
        background = self.background
        if wait:
            background.settle()
        background.check()
        if background.is_busy:
            return False
        self._stale = True
        copy = copy_of(state)
        background.begin(lambda: self._write(folder, copy, draft))
        if wait:
            background.settle()
            background.check()
        return True

    def clear(self) -> None:
        """Remove all checkpoints inside epochs: the epoch's own is committed.

        Raises:
            RunFailed: the attempt was overtaken by a newer one, which may go on from one of them.
        """
        self.background.settle()
        if self._stale:
            self._fence()
            remove_step_checkpoints(self._store, self._run, self._pointer.attempt)
        self._stale = False

    def _write(self, folder: str, state: TrainingState, draft: Draft) -> None:
        try:
            checkpoint = draft(put_state(self._store, folder, state))
            self._fence()
            self._store.create(f"{folder}/checkpoint.json", document_bytes(checkpoint))
            # A newer attempt that has begun since may have chosen the one before. One that begins
            # after this look finds the new one.
            self._fence()
            remove_step_checkpoints(self._store, self._run, self._pointer.attempt, folder)
            self._committed(checkpoint)
        except StoreError as error:
            self._say(f"no checkpoint was written inside the epoch, training goes on: {error}")

    def _fence(self) -> None:
        check_attempt(self._store, run_folder(self._run), self._pointer)
