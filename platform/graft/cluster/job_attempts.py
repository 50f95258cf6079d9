"""Whether another attempt at a job is worth making."""

from graft.errors import GaveUp, InputError, ResourceError, RunFailed, StoreError


def may_succeed_elsewhere(error: Exception) -> bool:
    """Whether another attempt, on another cluster, may not meet the error that ended this one.

    That cluster may have what this one lacks, or reach the store. A user's mistake would meet it
    again, and so would a training that diverges.
    """
    if isinstance(error, (StoreError, ResourceError, GaveUp)):
        return True
    return not isinstance(error, (InputError, RunFailed))
