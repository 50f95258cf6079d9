"""Work that goes on beside training, a piece at a time."""

import threading
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from graft.training.loop import TrainingState


class Background:
    """Does one piece of work at a time in a thread; what it raises is raised by `check`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a piece of work has begun and not ended."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], object]) -> None:
        """Begin a piece of work; the one before must have ended."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is being done."""
        if self._thread:
            self._thread.join()

    def check(self) -> None:
        """Raise what a piece of work has raised."""
        if self._failure:
            raise self._failure


def copy_of(state: TrainingState) -> TrainingState:
    """Return a copy of a state on the CPU, that no step changes."""

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}

    return replace(
        state,
        tail=copied(state.tail),
        average=copied(state.average),
        optimizer={name: copied(slots) for name, slots in state.optimizer.items()},
    )
