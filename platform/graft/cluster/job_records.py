"""Jobs in the store: what was submitted, what the job itself recorded, and what it logged.

jobs/<job>/spec.yaml               the spec that was sent; makes the job exist
jobs/<job>/job.json                the job's record: a pointer that its current attempt moves
jobs/<job>/logs/<source>/<offset>  a chunk of a source's log, from that byte on

A job's run, sweep or report has the job's id, so that a later attempt finds what an earlier one
left.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from graft.errors import (
    InputError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    RunFailed,
)
from graft.spec import Id, Ref, Section
from graft.store import Store, document_bytes, find_document, parse_document, read_document
from graft.store.index import indexed_rows
from graft.store.recorded_specs import recorded_text
from graft.store.retries import swaps

RecordedState = Literal["running", "succeeded", "failed", "cancelled"]
"""How a job stands by its own record. Before its first attempt there is no record: what a person is
shown (`status.JobState`) has states for that time, too, which only its cluster knows."""
_ENDED = {
    "succeeded": "succeeded already",
    "failed": "failed for good",
    "cancelled": "been cancelled",
}
OFFSET_DIGITS = 12


@dataclass(frozen=True)
class ClusterIdentity:
    """Which cluster a job is sent to."""

    place: str | None = None
    """Where it is, for people to read; None: not known."""
    uid: str | None = None
    """The same whichever way people reach the cluster; None: not known."""


UNKNOWN_CLUSTER = ClusterIdentity()


@dataclass(frozen=True)
class Sender:
    """Who sends a job, in whose name its aliases move."""

    who: str
    """The user as the cluster's API server knows him, else USER@HOST."""
    self_declared: bool = True
    """Whether `who` is what the sender's machine says of itself."""

    @property
    def environment(self) -> dict[str, str]:
        """What `graft run-job` reads."""
        return {
            "GRAFT_SENDER": self.who,
            "GRAFT_SENDER_SELF_DECLARED": str(self.self_declared).lower(),
        }


class JobRecord(Section):
    """What a job recorded of itself: ``job.json``."""

    job: Id
    kind: str
    """Kind of its spec."""
    state: RecordedState
    attempt: int
    """From 1; every cluster that is made for the job begins a new attempt. 0: cancelled before."""
    where: str | None = None
    """Place of the cluster that it was sent to (`ClusterIdentity.place`); null: not known."""
    cluster: str | None = None
    """That cluster's `ClusterIdentity.uid`; null: not known."""
    started: str
    """When this attempt began; ISO 8601 in UTC."""
    ended: str | None = None
    error: str | None = None
    """Why it failed, on a line."""
    final: bool = False
    """Whether another attempt would change nothing: done, cancelled, or failed by a mistake."""
    model: Ref | None = None
    """NAME@VERSION of the model that it registered."""

    def was_sent_to(self, cluster: ClusterIdentity) -> bool:
        """Whether the job was sent to this cluster, by whichever way its sender reached it."""
        return self.cluster == cluster.uid if self.cluster else self.where == cluster.place


class JobAttempt:
    """One attempt at a job, held by the process that runs it."""

    def __init__(self, store: Store, record: JobRecord, etag: str):
        self._store, self._record, self._etag = store, record, etag

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._record.attempt

    def succeed(self, model: str | None) -> None:
        """Record that the job is done; `model` is the one that it registered, if it did.

        Raises:
            RunFailed: a newer attempt has taken the job over, or it was cancelled.
        """
        self._end({"state": "succeeded", "model": model, "final": True})

    def fail(self, error: str, final: bool) -> None:
        """Record why the attempt failed; `final`: another attempt would fail in the same way.

        Raises:
            RunFailed: a newer attempt has taken the job over, or it was cancelled.
        """
        self._end({"state": "failed", "error": error, "final": final})

    def _end(self, changes: dict[str, Any]) -> None:
        record = self._record.model_copy(update=changes | {"ended": _now()})
        try:
            self._store.replace(_record_key(record.job), _bytes(record), self._etag)
        except ObjectChanged as changed:
            raise RunFailed(
                f"{record.job}: a newer attempt has taken this job over, or it was cancelled"
            ) from changed


def submit_job(store: Store, job: str, spec: str) -> None:
    """Record the text of the spec that is sent; doing so again changes nothing.

    Raises:
        InputError: there is such a job, with another spec.
    """
    try:
        store.create(f"jobs/{job}/spec.yaml", spec.encode())
    except ObjectExists as error:
        raise InputError(f"there is a job '{job}' with another spec; choose another id") from error


def begin_attempt(
    store: Store, job: str, kind: str, cluster: ClusterIdentity = UNKNOWN_CLUSTER
) -> JobAttempt:
    """Begin the next attempt at a recorded job; an earlier attempt can then record no end.

    Raises:
        InputError: it was cancelled, or has ended in a way that another attempt would not change.
    """
    first = JobRecord(
        job=job,
        kind=kind,
        state="running",
        attempt=1,
        where=cluster.place,
        cluster=cluster.uid,
        started=_now(),
    )

    def next_attempt(before: JobRecord) -> JobRecord:
        if before.final:
            reason = f": {before.error}" if before.error else ""
            raise InputError(
                f"{job} has {_ENDED[before.state]}{reason}; submit it under another id"
            )
        return first.model_copy(update={"attempt": before.attempt + 1})

    return JobAttempt(store, *_update_record(store, first, next_attempt))


def cancel_job(store: Store, job: str, kind: str) -> JobRecord:
    """Make sure that no attempt goes on with a job; return its record.

    The record of a job that has ended for good stays as it is.
    """
    now = _now()
    update = {"state": "cancelled", "ended": now, "final": True}
    first = JobRecord(job=job, kind=kind, attempt=0, started=now, **update)

    def cancelled(before: JobRecord) -> JobRecord:
        return before if before.final else before.model_copy(update=update)

    return _update_record(store, first, cancelled)[0]


def _update_record(
    store: Store, first: JobRecord, change: Callable[[JobRecord], JobRecord]
) -> tuple[JobRecord, str]:
    """Create a job's record, or change the one that is there; return it and its etag.

    Another process may write at the same time: then `change` is applied to what it wrote.

    Raises:
        StoreError: others change it without end.
    """
    key = _record_key(first.job)
    turn = swaps(f"{store.uri}/{key}")
    while True:
        next(turn)
        record = first
        try:
            current = store.read(key)
        except ObjectNotFound:
            with contextlib.suppress(ObjectExists):
                store.create(key, _bytes(first))
        else:
            record = change(parse_document(store, key, current.data, JobRecord))
            with contextlib.suppress(ObjectChanged):
                store.replace(key, _bytes(record), current.etag)
        with contextlib.suppress(ObjectNotFound):  # removed since
            written = store.read(key)
            if written.data == _bytes(record):
                return record, written.etag


def list_jobs(store: Store) -> list[str]:
    """Return the ids of all recorded jobs."""
    return store.children("jobs/")


def read_jobs(store: Store) -> dict[str, JobRecord | None]:
    """Return the record of every job, by id; None before its first attempt.

    Records that will not change any more are kept in an index.
    """
    jobs = list_jobs(store)
    records = indexed_rows(
        store,
        "jobs/index.json",
        JobRecord,
        jobs,
        lambda job: find_document(store, _record_key(job), JobRecord),
        settled=lambda record: record.final,
    )
    return {job: records.get(job) for job in jobs}


def read_job(store: Store, job: str) -> JobRecord | None:
    """Return a job's record; None before its first attempt.

    Raises:
        NotFoundError: no such job.
    """
    try:
        return read_document(store, _record_key(job), JobRecord)
    except ObjectNotFound:
        read_job_spec(store, job)
        return None


def read_job_spec(store: Store, job: str) -> str:
    """Return the text of the spec that was sent.

    Raises:
        NotFoundError: no such job.
    """
    return recorded_text(store, "job", job)


class _StoredChunk(NamedTuple):
    """A chunk of a log in the store; chunks sort by their offset in the log, in bytes."""

    offset: int
    size: int
    key: str


def log_sources(store: Store, job: str) -> list[str]:
    """Return the names of a job's logs, one for each file that was shipped."""
    return store.children(f"jobs/{job}/logs/")


def log_end(store: Store, job: str, source: str) -> int:
    """Return how many bytes of a source's log are in the store."""
    chunks = _chunks(store, job, source)
    return max((chunk.offset + chunk.size for chunk in chunks), default=0)


def put_log(store: Store, job: str, source: str, offset: int, data: bytes) -> None:
    """Add a chunk to a source's log, which begins at byte `offset` of it."""
    store.create(f"jobs/{job}/logs/{source}/{offset:0{OFFSET_DIGITS}}", data)


def read_log(store: Store, job: str, source: str, start: int = 0) -> Iterator[bytes]:
    """Yield a source's log from byte `start` on, where a chunk has to begin."""
    for chunk in _chunks(store, job, source):
        if chunk.offset >= start:
            yield store.read(chunk.key).data


def _chunks(store: Store, job: str, source: str) -> list[_StoredChunk]:
    """Return every chunk of a source's log, in order."""
    folder = f"jobs/{job}/logs/{source}/"
    return sorted(
        _StoredChunk(int(key.removeprefix(folder)), size, key) for key, size in store.scan(folder)
    )


def _record_key(job: str) -> str:
    return f"jobs/{job}/job.json"


def _bytes(record: JobRecord) -> bytes:
    return document_bytes(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
