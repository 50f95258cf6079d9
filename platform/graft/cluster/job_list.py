"""Which jobs a store has."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from graft.cluster.job_records import JobRecord, record_key
from graft.cluster.job_times import all_have_times, jobs_by_time, note_all_have_times, note_time
from graft.errors import StoreError
from graft.store import Store, find_document
from graft.store.index import READERS

EARLIEST = datetime.fromtimestamp(0, UTC)
"""When jobs that have no record were submitted, as far as is known."""


def list_jobs(store: Store) -> list[str]:
    """Return the ids of all recorded jobs."""
    return store.children("jobs/")


def read_jobs(store: Store, jobs: Collection[str]) -> dict[str, JobRecord | None]:
    """Return the records of jobs, by id; None before the first attempt."""

    def read(job: str) -> JobRecord | None:
        return find_document(store, record_key(job), JobRecord)

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(jobs, pool.map(read, jobs), strict=True))


def newest_jobs(store: Store) -> Iterator[tuple[datetime, str]]:
    """Yield when all jobs were submitted, the latest first, as the listing is read.

    So a list of the latest costs the same however many there are. In a store of an earlier release
    the jobs get their times here, once.
    """
    if not all_have_times(store):
        try:
            _add_times(store)
        except StoreError:  # whoever may only read gets them in no order
            for job in list_jobs(store):
                yield EARLIEST, job
            return
    yield from jobs_by_time(store)


def _add_times(store: Store) -> None:
    def add(job: str) -> None:
        record = None
        with suppress(StoreError):  # one that cannot be read hides no other
            record = find_document(store, record_key(job), JobRecord)
        note_time(store, job, record.start if record else EARLIEST)

    timed = {job for _, job in jobs_by_time(store)}
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(add, [job for job in list_jobs(store) if job not in timed]):
            pass  # an error is raised here
    note_all_have_times(store)
