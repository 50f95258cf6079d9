"""Jobs in the store: what was submitted, how it stands, and what it said.

jobs/<job>/spec.yaml               what was sent; makes the job exist
jobs/<job>/job.json                how it stands: a pointer that the current attempt moves
jobs/<job>/logs/<source>/<offset>  what a source wrote from that byte on

A job's run, or sweep, has the job's name, so that another attempt finds what the last one did.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from graft.errors import (
    InputError,
    NotFoundError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    RunFailed,
)
from graft.spec import Section, nearest
from graft.store import Store

State = Literal["running", "succeeded", "failed", "cancelled"]
_ENDED = {
    "succeeded": "succeeded already",
    "failed": "failed for good",
    "cancelled": "been cancelled",
}
OFFSET_DIGITS = 12


class JobRecord(Section):
    """How a job stands: ``job.json``."""

    job: str
    kind: str
    """Of its spec."""
    state: State
    attempt: int
    """From 1; every cluster that is made for the job takes a new one. 0: cancelled before."""
    where: str | None = None
    """The cluster that it was sent to, for people to read; null: not known."""
    cluster: str | None = None
    """The same cluster's own name for itself, whichever way people reach it."""
    started: str
    """When this attempt began; ISO 8601 in UTC."""
    ended: str | None = None
    error: str | None = None
    """Why it failed, on a line."""
    final: bool = False
    """Whether another attempt would change nothing: done, cancelled, or failed by a mistake."""
    model: str | None = None
    """NAME@VERSION of what it registered."""


class Attempt:
    """One try at a job, by the process that runs it."""

    def __init__(self, store: Store, record: JobRecord, etag: str):
        self._store, self._record, self._etag = store, record, etag

    @property
    def number(self) -> int:
        """From 1."""
        return self._record.attempt

    def succeed(self, model: str | None) -> None:
        """Say that it is done; `model` is what it registered, if it did.

        Raises:
            RunFailed: a newer attempt has the job by now, or it was cancelled.
        """
        self._end({"state": "succeeded", "model": model, "final": True})

    def fail(self, error: str, final: bool) -> None:
        """Say why it failed; `final`: another attempt would fail in the same way.

        Raises:
            RunFailed: a newer attempt has the job by now, or it was cancelled.
        """
        self._end({"state": "failed", "error": error, "final": final})

    def _end(self, how: dict[str, Any]) -> None:
        record = self._record.model_copy(update=how | {"ended": _now()})
        try:
            self._store.replace(_head(record.job), _bytes(record), self._etag)
        except ObjectChanged as changed:
            raise RunFailed(
                f"{record.job}: a newer attempt has taken this job over, or it was cancelled"
            ) from changed


def submit_job(store: Store, job: str, spec: str) -> None:
    """Record what was sent, the text of a spec; doing it again changes nothing.

    Raises:
        InputError: there is such a job, with another spec.
    """
    try:
        store.create(f"jobs/{job}/spec.yaml", spec.encode())
    except ObjectExists as error:
        raise InputError(f"there is a job '{job}' with another spec; choose another id") from error


def begin_attempt(
    store: Store, job: str, kind: str, where: str | None = None, cluster: str | None = None
) -> Attempt:
    """Take a recorded job on; whoever had it cannot say how it ended any more.

    Raises:
        InputError: it was cancelled, or has ended in a way that another attempt would not change.
    """
    record = JobRecord(
        job=job,
        kind=kind,
        state="running",
        attempt=1,
        where=where,
        cluster=cluster,
        started=_now(),
    )

    def next_one(before: JobRecord) -> JobRecord:
        if before.final:
            reason = f": {before.error}" if before.error else ""
            raise InputError(
                f"{job} has {_ENDED[before.state]}{reason}; submit it under another id"
            )
        return record.model_copy(update={"attempt": before.attempt + 1})

    return Attempt(store, *_move(store, job, record, next_one))


def cancel_job(store: Store, job: str, kind: str) -> JobRecord:
    """Make sure that no attempt goes on with a job; return how it stands then.

    What has ended for good stays as it is.
    """
    now = _now()
    update = {"state": "cancelled", "ended": now, "final": True}
    fresh = JobRecord(job=job, kind=kind, attempt=0, started=now, **update)

    def cancelled(before: JobRecord) -> JobRecord:
        return before if before.final else before.model_copy(update=update)

    return _move(store, job, fresh, cancelled)[0]


def _move(
    store: Store, job: str, first: JobRecord, following: Callable[[JobRecord], JobRecord]
) -> tuple[JobRecord, str]:
    """Move job.json on from whatever it is; return what it is then, and its etag."""
    while True:
        record = first
        try:
            current = store.read(_head(job))
        except ObjectNotFound:
            with contextlib.suppress(ObjectExists):
                store.create(_head(job), _bytes(first))
        else:
            record = following(JobRecord.model_validate_json(current.data))
            with contextlib.suppress(ObjectChanged):
                store.replace(_head(job), _bytes(record), current.etag)
        written = store.read(_head(job))
        if written.data == _bytes(record):
            return record, written.etag


def list_jobs(store: Store) -> list[str]:
    """Return the ids of all recorded jobs."""
    return store.children("jobs/")


def read_job(store: Store, job: str) -> JobRecord | None:
    """Return how a job stands; None while nothing has begun on it.

    Raises:
        NotFoundError: no such job.
    """
    try:
        return JobRecord.model_validate_json(store.read(_head(job)).data)
    except ObjectNotFound:
        read_job_spec(store, job)
        return None


def read_job_spec(store: Store, job: str) -> str:
    """Return the text of the spec that was sent.

    Raises:
        NotFoundError: no such job.
    """
    try:
        return store.read(f"jobs/{job}/spec.yaml").data.decode()
    except ObjectNotFound as error:
        raise NotFoundError(
            f"no job '{job}' in {store.uri}{nearest(job, list_jobs(store))}"
        ) from error


def log_sources(store: Store, job: str) -> list[str]:
    """Return the names of what has written logs."""
    return store.children(f"jobs/{job}/logs/")


def log_end(store: Store, job: str, source: str) -> int:
    """Return how many bytes of a source are in the store."""
    return max((offset + size for offset, size, _ in _chunks(store, job, source)), default=0)


def put_log(store: Store, job: str, source: str, offset: int, data: bytes) -> None:
    """Add what a source wrote from byte `offset` on."""
    store.create(f"jobs/{job}/logs/{source}/{offset:0{OFFSET_DIGITS}}", data)


def read_log(store: Store, job: str, source: str, start: int = 0) -> Iterator[bytes]:
    """Yield what a source wrote from byte `start` on, which is where a chunk begins."""
    for offset, _, key in _chunks(store, job, source):
        if offset >= start:
            yield store.read(key).data


def _chunks(store: Store, job: str, source: str) -> list[tuple[int, int, str]]:
    """Return offset, size and key of every chunk, in order."""
    folder = f"jobs/{job}/logs/{source}/"
    found = ((int(key.removeprefix(folder)), size, key) for key, size in store.scan(folder))
    return sorted(found)


def _head(job: str) -> str:
    return f"jobs/{job}/job.json"


def _bytes(record: JobRecord) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
