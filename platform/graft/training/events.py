"""What an attempt tells while it runs, and the board where its driver reads it.

Imports nothing heavy: the board is a process of its own, and so is whoever shows events.
"""

from dataclasses import dataclass
from typing import Any

from graft.errors import GraftError
from graft.training.runs import StagePlan


@dataclass(frozen=True)
class Started:
    """An attempt begins."""

    attempt: int
    epoch: int
    """Finished epochs it goes on from."""
    plan: tuple[StagePlan, ...]
    """What is trained when, and how fast; the last one is the head."""
    trunk_digest: str
    """Of the trunk in the run's first epoch."""


@dataclass(frozen=True)
class Keeping:
    """What is decided on keeping activations, or how far their computing is."""

    text: str
    """One line."""
    images: int = 0
    """Done."""
    total: int = 0
    """Images to compute; 0 for a decision."""


@dataclass(frozen=True)
class Untrained:
    """Validation before any training."""

    val: dict[str, Any]


@dataclass(frozen=True)
class Stepped:
    """How far the first worker is in an epoch."""

    epoch: int
    step: int
    steps: int
    loss: float
    """Mean over the first worker's images of this epoch so far."""
    accuracy: float
    """Likewise."""
    images_per_second: float
    """Over all workers, in this epoch so far."""


@dataclass(frozen=True)
class Validated:
    """An epoch's numbers, its checkpoint committed."""

    epoch: int
    train: dict[str, float]
    val: dict[str, Any]
    images_per_second: float


@dataclass(frozen=True)
class Stalled:
    """A worker ends itself, and with it the attempt."""

    rank: int
    seconds: float
    """Without a finished step."""


Event = Started | Keeping | Untrained | Stepped | Validated | Stalled


class Board:
    """What the workers tell the driver; as a Ray actor it outlives every attempt."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._failure: GraftError | None = None

    def post(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def fail(self, error: GraftError) -> None:
        """Leave an error that no restart mends."""
        self._failure = self._failure or error

    def failure(self) -> GraftError | None:
        """Return that error, if there is one."""
        return self._failure
