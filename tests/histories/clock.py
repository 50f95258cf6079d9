"""A process that is wrong about the time of day."""

import datetime
import sys
import time


def skew(seconds: float) -> None:
    """Have this process take the time of day to be later by so many seconds, from now on.

    That is Python's own clock, which Graft, boto3 and its signatures read: what is in C, such as
    the times of files, stays right. The monotonic clock is no matter of opinion.
    """
    real, right = time.time, datetime.datetime

    class Skewed(datetime.datetime):
        """Says what the skewed clock does."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Skewed":
            return cls.fromtimestamp(real() + seconds, tz)

        @classmethod
        def utcnow(cls) -> "Skewed":
            return cls.now(datetime.UTC).replace(tzinfo=None)

    time.time = lambda: real() + seconds
    datetime.datetime = Skewed  # type: ignore[misc]
    for module in list(sys.modules.values()):
        if getattr(module, "datetime", None) is right:
            module.datetime = Skewed  # type: ignore[attr-defined]
