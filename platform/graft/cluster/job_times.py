"""When jobs were submitted, as keys that list the latest first.

job-times/<seconds>-<job>   `seconds` counts down, so that a listing begins with the latest job
job-times/complete          every job has such a key, also those of releases that wrote none
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from graft.store import Store

_FOLDER = "job-times/"
_COMPLETE = f"{_FOLDER}complete"
_LAST_SECOND = 99_999_999_999


def note_time(store: Store, job: str, submitted: datetime) -> None:
    """Make a job appear in the list, at its time."""
    store.write(f"{_FOLDER}{_LAST_SECOND - int(submitted.timestamp()):011d}-{job}", b"")


def jobs_by_time(store: Store) -> Iterator[tuple[datetime, str]]:
    """Yield when jobs were submitted that have a time, the latest first, as the listing is read."""
    for key, _ in store.scan(_FOLDER):
        time, _, job = key.removeprefix(_FOLDER).partition("-")
        if time.isdecimal():
            yield datetime.fromtimestamp(_LAST_SECOND - int(time), UTC), job


def all_have_times(store: Store) -> bool:
    """Whether every job has a time."""
    return store.exists(_COMPLETE)


def note_all_have_times(store: Store) -> None:
    """Record that every job has a time."""
    store.write(_COMPLETE, b"")
