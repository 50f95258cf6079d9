"""How far a work on many files is, how fast, and when it will be done."""

import time
from collections import deque
from dataclasses import dataclass

from graft.spec import Section
from graft.units import duration

WINDOW_S = 300.0
"""What is forecast follows from so many seconds before: a cluster grows and shrinks."""


class Pace(Section):
    """How far a work is: ``progress.json``, which its process replaces now and then."""

    done: int
    """Files that are done, or cannot be used."""
    of: int
    files_per_second: float | None
    """Of late; null: not one part is done since it was begun, or resumed."""

    @property
    def seconds_left(self) -> float | None:
        """Return how long it goes on at this pace; None: nobody knows yet."""
        if not self.files_per_second:
            return None
        return (self.of - self.done) / self.files_per_second

    def __str__(self) -> str:
        text = f"{self.done:,} of {self.of:,} files"
        if self.files_per_second and self.seconds_left is not None:
            text += f", {self.files_per_second:,.1f} files/s, {duration(self.seconds_left)} left"
        return text


@dataclass(frozen=True)
class _Seen:
    at: float
    done: int


class Stopwatch:
    """Measures the pace of one process."""

    def __init__(self, done: int, of: int):
        """Begin; `done`: files that earlier tries have done."""
        self._of = of
        self._seen = deque([_Seen(time.monotonic(), done)])

    def pace(self, done: int) -> Pace:
        """Return the pace, now that so many files are done."""
        now = time.monotonic()
        self._seen.append(_Seen(now, done))
        while len(self._seen) > 2 and self._seen[1].at < now - WINDOW_S:
            self._seen.popleft()
        first = self._seen[0]
        more = done - first.done
        rate = more / (now - first.at) if more and now > first.at else None
        return Pace(done=done, of=self._of, files_per_second=rate)


class Throttle:
    """Something that is due now and then."""

    def __init__(self, every_s: float):
        self._every_s = every_s
        self._last: float | None = None

    def is_due(self) -> bool:
        """Whether it was not due for so long; it is not due then until that time has passed."""
        now = time.monotonic()
        due = self._last is None or now - self._last >= self._every_s
        if due:
            self._last = now
        return due
