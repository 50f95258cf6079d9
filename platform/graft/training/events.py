"""The events of an attempt, and the board from which its driver reads them.

Nothing heavy is imported: the board is a process of its own, and so is whoever shows events.
"""

from dataclasses import dataclass
from enum import IntEnum

from graft.errors import GraftError
from graft.training.run_records import StagePlan

REPORT_EVERY_S = 0.2
"""Seconds between the reports of an epoch's steps, and between two looks at the board."""


@dataclass(frozen=True)
class Started:
    """An attempt begins."""

    attempt: int
    epoch: int
    """Finished epochs that it goes on from."""
    plan: tuple[StagePlan, ...]
    """What is trained when, and how fast; the last one is the head."""
    trunk_digest: str
    """Digest of the trunk in the run's first epoch."""
    step: int = 0
    """Finished steps of the epoch after these, where it goes on inside one."""
    steps: int = 0
    """Steps of that epoch."""


@dataclass(frozen=True)
class Note:
    """Something that a person wants to know, on a line: what is cached and why, for instance."""

    text: str


@dataclass(frozen=True)
class TrunkComputing:
    """Images have gone through the frozen trunk, and their activations into the cache."""

    images: int
    """Views of images that are done."""
    total: int
    """Views of images to compute."""


@dataclass(frozen=True)
class Untrained:
    """Validation before any training."""

    val: dict[str, float]


@dataclass(frozen=True)
class Stepped:
    """How far the first worker is in an epoch."""

    epoch: int
    step: int
    steps: int
    loss: float
    """Mean over the first worker's images of this epoch so far."""
    accuracy: float
    """Share of these images that are predicted right."""
    images_per_second: float
    """Images that all workers train on in a second, in this epoch so far."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint inside an epoch is committed."""

    epoch: int
    """From 1."""
    step: int
    """Finished steps of that epoch."""
    steps: int
    bytes: int
    """Of its tensors."""


@dataclass(frozen=True)
class Validated:
    """An epoch's numbers, its checkpoint committed."""

    epoch: int
    train: dict[str, float]
    val: dict[str, float]
    images_per_second: float


@dataclass(frozen=True)
class Stalled:
    """A worker ends itself, and with it the attempt."""

    rank: int
    seconds: float
    """How long it has not finished a step."""


Event = Started | Note | TrunkComputing | Untrained | Stepped | Saved | Validated | Stalled


class Notice(IntEnum):
    """What a worker was told about its end; a greater one outweighs a smaller one."""

    NONE = 0
    LEAVING = 1
    """What it runs on will be taken away: a node's drain, a preemption."""
    STOP = 2
    """It is to end as soon as it has made a checkpoint."""


class Board:
    """Where workers leave events for the driver; as a Ray actor it outlives every attempt."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._failure: GraftError | None = None
        self._notice = Notice.NONE
        self._is_inside = False

    def post(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        if isinstance(event, Stepped):
            self._is_inside = event.step < event.steps
        elif isinstance(event, Started | Validated | Stalled):
            self._is_inside = False

    def is_inside(self) -> bool:
        """Return whether workers are inside an epoch, and can make a checkpoint."""
        return self._is_inside

    def notify(self, notice: Notice) -> None:
        """Leave word for the workers of their end."""
        self._notice = max(self._notice, notice)

    def notice(self) -> Notice:
        """Return what is known of the workers' end."""
        return self._notice

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def fail(self, error: GraftError) -> None:
        """Leave an error that no restart mends; the first one stays."""
        self._failure = self._failure or error

    def failure(self) -> GraftError | None:
        """Return that error, if there is one."""
        return self._failure
