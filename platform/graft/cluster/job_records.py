"""Jobs in the store: what was submitted, and what the job itself recorded.

jobs/<job>/spec.yaml               the spec that was sent; makes the job exist
jobs/<job>/job.json                the job's record: a pointer that its current attempt moves
jobs/<job>/told/<pod>              that this pod of its was told to end: evicted, drained, preempted

A job's run, sweep or report has the job's id, so that a later attempt finds what an earlier one
left.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from graft.cluster.job_times import note_time
from graft.errors import (
    InputError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    RunFailed,
)
from graft.spec import Id, Ref, Section
from graft.store import Store, document_bytes, parse_document, read_document
from graft.store.recorded_specs import recorded_text
from graft.store.retries import swaps

RecordedState = Literal["running", "succeeded", "failed", "cancelled", "resumed"]
"""How a job stands by its own record. Before its first attempt there is no record: what a person is
shown (`status.JobState`) has states for that time, too, which only its cluster knows."""
_ENDED = {
    "succeeded": "succeeded already",
    "failed": "failed for good",
    "cancelled": "been cancelled",
}


@dataclass(frozen=True)
class ClusterIdentity:
    """Which cluster a job is sent to."""

    place: str | None = None
    """Where it is, for people to read; None: not known."""
    uid: str | None = None
    """The same whichever way people reach the cluster; None: not known."""


UNKNOWN_CLUSTER = ClusterIdentity()


@dataclass(frozen=True)
class Owner:
    """Who submitted a job, in whose name its aliases move."""

    who: str
    """The user as the cluster's API server knows them, else USER@HOST."""
    self_declared: bool = True
    """Whether `who` is what the submitting machine says of itself."""

    @property
    def environment(self) -> dict[str, str]:
        """What `graft run-job` reads."""
        return {
            "GRAFT_OWNER": self.who,
            "GRAFT_OWNER_SELF_DECLARED": str(self.self_declared).lower(),
        }


@dataclass(frozen=True)
class Driver:
    """Where an attempt at a job runs, and whose it is."""

    cluster: ClusterIdentity = UNKNOWN_CLUSTER
    pod: str | None = None
    """Host name of its pod; None: in none, or not known."""
    owner: Owner | None = None
    """Who submitted the job; None: not known."""
    gpus: int = 0
    """GPUs of all its workers."""


NO_POD = Driver()


def _is_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time with its zone, ISO 8601")
    return text


Time = Annotated[str, AfterValidator(_is_time)]
"""ISO 8601 in UTC."""


class Resumption(Section):
    """That a person had an ended job go on."""

    attempt: int
    """The last one before."""
    who: str
    when: Time
    changes: dict[str, str] = Field(default={})
    """What they set otherwise than when it was submitted, by option."""


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
    started: Time
    """When this attempt began."""
    ended: Time | None = None
    error: str | None = None
    """Why it failed, on a line."""
    final: bool = False
    """Whether another attempt would change nothing: done, cancelled, or failed by a mistake."""
    model: Ref | None = None
    """NAME@VERSION of the model that it registered."""
    pod: str | None = None
    """Host name of the pod that this attempt's driver runs in; null: in none, or not known."""
    losses: int = 0
    """Earlier attempts that failed, or died without a word; resuming the job forgets them."""
    preemptions: int = 0
    """Earlier attempts whose pods were told to end; they count as no loss."""
    owner: str | None = None
    """Who submitted it, as its cluster knows them; null: not known."""
    gpus: int = 0
    """GPUs that this attempt holds."""
    gpu_seconds: float = 0.0
    """What earlier attempts held, times the seconds for which they did."""
    resumptions: tuple[Resumption, ...] = ()

    def gpu_hours(self, now: datetime) -> float:
        """Return the GPU hours that the job has taken until it ended, or `now`."""
        return (self.gpu_seconds + _gpu_seconds(self, now)) / 3600

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
            self._store.replace(record_key(record.job), _bytes(record), self._etag)
        except ObjectChanged as changed:
            raise RunFailed(
                f"{record.job}: a newer attempt has taken this job over, or it was cancelled"
            ) from changed


def submit_job(store: Store, job: str, spec: str) -> None:
    """Record the text of the spec that is sent; doing so again changes nothing.

    Raises:
        InputError: there is such a job, with another spec.
    """
    key = f"jobs/{job}/spec.yaml"
    if not store.exists(key):
        note_time(store, job, datetime.now(UTC))
    try:
        store.create(key, spec.encode())
    except ObjectExists as error:
        raise InputError(f"there is a job '{job}' with another spec; choose another id") from error


def begin_attempt(
    store: Store,
    job: str,
    kind: str,
    driver: Driver = NO_POD,
    retries: int | None = None,
) -> JobAttempt:
    """Begin the next attempt at a recorded job; an earlier attempt can then record no end.

    Whoever starts drivers may do so without end: KubeRay starts another one in each new head.
    So attempts are counted here.

    Args:
        store: where the job is recorded.
        job: its id.
        kind: kind of its spec.
        driver: where this attempt runs.
        retries: how many earlier attempts may have failed or died; None: any number.

    Raises:
        InputError: it was cancelled, or has ended in a way that another attempt would not change.
        RunFailed: its attempts have failed or died more often than `retries`.
    """
    first = JobRecord(
        job=job,
        kind=kind,
        state="running",
        attempt=1,
        where=driver.cluster.place,
        cluster=driver.cluster.uid,
        pod=driver.pod,
        owner=driver.owner.who if driver.owner else None,
        gpus=driver.gpus,
        started=_now(),
    )

    def next_attempt(before: JobRecord) -> JobRecord:
        if before.final:
            reason = f": {before.error}" if before.error else ""
            raise InputError(
                f"{job} has {_ENDED[before.state]}{reason}; "
                f"go on with graft jobs resume {job}, or submit it under another id"
            )
        told = before.state == "running" and was_told_to_end(store, job, before.pod)
        lost = before.state in ("running", "failed") and not told
        losses = before.losses + lost
        update = {
            "attempt": before.attempt + 1,
            "losses": losses,
            "preemptions": before.preemptions + told,
            "gpu_seconds": before.gpu_seconds + _gpu_seconds(before, datetime.now(UTC)),
            "resumptions": before.resumptions,
        }
        if retries is None or losses <= retries:
            return first.model_copy(update=update)
        last = before.error or "its head died without a word, perhaps for want of memory"
        return before.model_copy(
            update={
                "state": "failed",
                "ended": _now(),
                "final": True,
                "error": f"given up after {losses} attempts that failed or died "
                f"(jobs.retries is {retries}); the last one: {last}",
            }
        )

    record, etag = _update_record(store, first, next_attempt)
    if record.final:
        raise RunFailed(f"{job} was {record.error}; go on with graft jobs resume {job}")
    return JobAttempt(store, record, etag)


def tell_end(store: Store, job: str, pod: str) -> None:
    """Record that a pod of a job was told to end, which is no failure of the job's."""
    store.write(_told_key(job, pod), _now().encode())


def was_told_to_end(store: Store, job: str, pod: str | None) -> bool:
    """Whether a pod of a job, by its host name, was told to end; None: there was no pod."""
    return pod is not None and store.exists(_told_key(job, pod))


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


def reopen_job(
    store: Store, job: str, kind: str, who: str, changes: Mapping[str, str]
) -> JobRecord:
    """Let attempts begin again at a job that has ended; return its record.

    Raises:
        InputError: it has succeeded, or an attempt at it may still run.
    """
    now = _now()

    def reopened(before: JobRecord) -> JobRecord:
        if before.state == "succeeded":
            raise InputError(f"{job} has succeeded; there is nothing to go on with")
        resumption = Resumption(attempt=before.attempt, who=who, when=now, changes=dict(changes))
        return before.model_copy(
            update={
                "state": "resumed",
                "final": False,
                "ended": None,
                "error": None,
                "losses": 0,
                "gpu_seconds": before.gpu_seconds + _gpu_seconds(before, datetime.now(UTC)),
                "gpus": 0,
                "resumptions": (*before.resumptions, resumption),
            }
        )

    first = JobRecord(job=job, kind=kind, state="resumed", attempt=0, started=now)
    return _update_record(store, first, reopened)[0]


def _gpu_seconds(record: JobRecord, now: datetime) -> float:
    """Return GPUs times seconds of a record's attempt; one that died ends when that is noticed."""
    end = datetime.fromisoformat(record.ended) if record.ended else now
    began = datetime.fromisoformat(record.started)
    return record.gpus * max((end - began).total_seconds(), 0.0)


def _update_record(
    store: Store, first: JobRecord, change: Callable[[JobRecord], JobRecord]
) -> tuple[JobRecord, str]:
    """Create a job's record, or change the one that is there; return it and its etag.

    Another process may write at the same time: then `change` is applied to what it wrote.

    Raises:
        StoreError: others change it without end.
    """
    key = record_key(first.job)
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


def read_job(store: Store, job: str) -> JobRecord | None:
    """Return a job's record; None before its first attempt.

    Raises:
        NotFoundError: no such job.
    """
    try:
        return read_document(store, record_key(job), JobRecord)
    except ObjectNotFound:
        read_job_spec(store, job)
        return None


def read_job_spec(store: Store, job: str) -> str:
    """Return the text of the spec that was sent.

    Raises:
        NotFoundError: no such job.
    """
    return recorded_text(store, "job", job)


def _told_key(job: str, pod: str) -> str:
    return f"jobs/{job}/told/{pod}"


def record_key(job: str) -> str:
    """Return the key of a job's record."""
    return f"jobs/{job}/job.json"


def _bytes(record: JobRecord) -> bytes:
    return document_bytes(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
