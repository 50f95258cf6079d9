"""After which steps of an epoch a checkpoint is made: all workers decide that together.

Whether time is up, and whether someone was told to end, only one worker may know. So workers meet
after some steps, about one a second, and hear there after which step they meet again.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum

from graft.spec import Checkpointing
from graft.training.events import Notice
from graft.training.worker_group import Ranks

MEET_EVERY_S = 1.0
"""Seconds between two meetings, which take milliseconds."""
LEAVING_EVERY_S = 5.0
"""Seconds between two checkpoints of those who will be ended soon, they do not know when."""


class Due(Enum):
    """Whether a checkpoint is made now."""

    NO = "no"
    YES = "yes"
    LAST = "last"
    """Yes, and training ends with it."""


class CheckpointClock:
    """Tells one worker of several, who all ask after the same steps, when a checkpoint is due."""

    def __init__(self, every: Checkpointing, ranks: Ranks, notice: Callable[[], Notice]):
        """`notice`: called in meetings; says what this worker was told about its end."""
        self._every, self._ranks, self._notice = every, ranks, notice
        self._made = time.monotonic()
        """When there was a checkpoint."""
        self._met: tuple[int, float] | None = None
        """After which step workers met, and when."""
        self._next = 0
        """After which step they meet again."""

    def restart(self) -> None:
        """Note that there is a checkpoint now: an epoch's own."""
        self._made = time.monotonic()

    def due(self, step: int) -> Due:
        """Return whether a checkpoint is due after an optimiser step of the run (from 1)."""
        due = bool(self._every.steps) and step % (self._every.steps or 1) == 0
        notice = Notice.NONE
        if step >= self._next:
            notice, late = self._meet(step)
            due = due or late
        if notice is Notice.STOP:
            return Due.LAST
        if due:
            self.restart()
        return Due.YES if due else Due.NO

    def told_to_stop(self) -> bool:
        """Return whether any worker was told to end now; all have to ask."""
        return max(self._ranks.gather(self._notice())) is Notice.STOP

    def _meet(self, step: int) -> tuple[Notice, bool]:
        """Return what any worker was told, and whether it is time for a checkpoint."""
        now = time.monotonic()
        ahead = 1
        if self._met:
            steps, seconds = step - self._met[0], now - self._met[1]
            # Not more than twice as many as before: steps may become slower at once.
            ahead = int(min(2 * steps, max(1, MEET_EVERY_S * steps / max(seconds, 1e-6))))
        said = self._ranks.gather((self._notice(), now - self._made, ahead))
        notice: Notice = max(each for each, _, _ in said)
        _, since, ahead = said[0]
        every = self._every.seconds or math.inf
        if notice is Notice.LEAVING:
            every = min(every, LEAVING_EVERY_S)
        self._met, self._next = (step, now), step + ahead
        return notice, since >= every


@contextlib.contextmanager
def sigterm_stops() -> Iterator[Callable[[], Notice]]:
    """Have SIGTERM make a checkpoint first; yield what says whether it has come.

    Only a process's main thread hears signals: in others nothing changes. A second one acts as the
    first would have.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: Notice.NONE
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL  # None: not Python's

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        came.set()

    signal.signal(signal.SIGTERM, stop)
    try:
        yield lambda: Notice.STOP if came.is_set() else Notice.NONE
    finally:
        signal.signal(signal.SIGTERM, before)
