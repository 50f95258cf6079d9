"""Attempts at a job: how they begin and end, how many there may be, and what ends or reopens a job.

An attempt that may succeed elsewhere is followed by another one. Whether it may is decided here,
and so is after how many a job is given up.
"""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from graft.cluster.job_records import (
    NO_POD,
    ClusterIdentity,
    Driver,
    JobRecord,
    Resumption,
    gpu_seconds,
    record_key,
)
from graft.errors import (
    GaveUp,
    InputError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    ResourceError,
    RunFailed,
    StoreError,
    WeightsLost,
)
from graft.store import Store, document_bytes, parse_document
from graft.store.retries import swaps
from graft.training.attempt_pointer import claim_attempt

PLACES = {"finetune": "runs", "sweep": "sweeps", "transfer-report": "reports"}
"""Where the store has what a job of a kind makes in attempts, under the job's id."""
_ENDED = {
    "succeeded": "succeeded already",
    "failed": "failed for good",
    "cancelled": "been cancelled",
}


def may_succeed_elsewhere(error: Exception) -> bool:
    """Whether another attempt, on another cluster, may not meet the error that ended this one.

    That cluster may have what this one lacks, or reach the store. A user's mistake would meet it
    again, and so would a training that diverges.
    """
    if isinstance(error, (StoreError, ResourceError, WeightsLost, GaveUp)):
        return True
    return not isinstance(error, (InputError, RunFailed))


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


def begin_attempt(
    store: Store,
    job: str,
    kind: str,
    driver: Driver = NO_POD,
    retries: int | None = None,
    submitted: str | None = None,
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
        submitted: when the job was sent, where no record says so yet; None: not known.

    Raises:
        InputError: it was cancelled, or has ended in a way that another attempt would not change.
        RunFailed: its attempts have failed or died more often than `retries`.
    """
    first = _first_attempt(job, kind, driver, submitted)

    def next_attempt(before: JobRecord) -> JobRecord:
        here, home = driver.cluster, ClusterIdentity(before.where, before.cluster)
        if home.uid and here.uid and not here.is_same(home):
            raise InputError(f"{job} was taken over by {home.place or home.uid}; it ends here")
        if before.final:
            reason = f": {before.error}" if before.error else ""
            raise InputError(
                f"{job} has {_ENDED[before.state]}{reason}; "
                f"go on with graft jobs resume {job}, or submit it under another id"
            )
        ended = before.state in ("running", "failed")
        # A container that starts again in its pod was ended for what it is: a probe, its memory.
        told = ended and before.pod != driver.pod and was_told_to_end(store, job, before.attempt)
        lost = ended and not told
        losses = before.losses + lost
        if retries is not None and losses > retries:
            return _given_up(before, losses, retries)
        update = {
            "attempt": before.attempt + 1,
            "losses": losses,
            "preemptions": before.preemptions + told,
            "owner": before.owner or first.owner,
            "submitted": before.submitted or before.started,
            "gpu_seconds": before.gpu_seconds + gpu_seconds(before, datetime.now(UTC)),
            "resumptions": before.resumptions,
        }
        return first.model_copy(update=update)

    record, etag = _update_record(store, first, next_attempt)
    if record.final:
        raise RunFailed(f"{job} was {record.error}; go on with graft jobs resume {job}")
    return JobAttempt(store, record, etag)


def _first_attempt(job: str, kind: str, driver: Driver, submitted: str | None) -> JobRecord:
    return JobRecord(
        job=job,
        kind=kind,
        state="running",
        attempt=1,
        where=driver.cluster.place,
        cluster=driver.cluster.uid,
        pod=driver.pod,
        owner=driver.owner.who if driver.owner else None,
        gpus=driver.gpus,
        resource_class=driver.resource_class,
        image=driver.image,
        submitted=submitted,
        started=_now(),
    )


def _given_up(last: JobRecord, losses: int, retries: int) -> JobRecord:
    """Return the record of a job after whose `last` attempt there is no other."""
    reason = last.error or "its head died without a word, perhaps for want of memory"
    error = (
        f"given up after {losses} attempts that failed or died (jobs.retries is {retries}); "
        f"the last one: {reason}"
    )
    update = {"state": "failed", "ended": _now(), "final": True, "error": error}
    return last.model_copy(update=update)


def tell_end(store: Store, job: str, attempt: int) -> None:
    """Record that the pod of an attempt was told to end, which is no failure of the job's."""
    store.write(_told_key(job, attempt), _now().encode())


def was_told_to_end(store: Store, job: str, attempt: int) -> bool:
    """Whether the pod of an attempt was told to end."""
    return store.exists(_told_key(job, attempt))


def cancel_job(store: Store, job: str, kind: str, submitted: str | None = None) -> JobRecord:
    """Make sure that no attempt goes on with a job; return its record.

    The record of a job that has ended for good stays as it is.

    `submitted`: when it was sent, where it has no record yet.
    """
    now = _now()
    update = {"state": "cancelled", "ended": now, "final": True}
    first = JobRecord(job=job, kind=kind, attempt=0, submitted=submitted, started=now, **update)

    def cancelled(before: JobRecord) -> JobRecord:
        return before if before.final else before.model_copy(update=update)

    return _update_record(store, first, cancelled)[0]


def overtake(store: Store, job: str, kind: str) -> None:
    """See to it that what an attempt at a job still trains is not published."""
    place = PLACES.get(kind)
    if place and store.exists(f"{place}/{job}/spec.yaml"):
        claim_attempt(store, f"{place}/{job}")


def reopen_job(
    store: Store,
    ended: JobRecord | None,
    first: JobRecord,
    until: datetime,
    who: str,
    changes: Mapping[str, str],
) -> JobRecord:
    """Let attempts begin again at a job that has ended; return its record.

    Args:
        store: where the job is recorded.
        ended: its record, as it was when it was found to have ended; None: there was none.
        first: its record without an attempt, on the cluster that it is sent to now.
        until: when its last attempt ended.
        who: has it go on.
        changes: what they set, by option.

    Raises:
        InputError: another person was faster, or an attempt has begun.
    """
    now = datetime.now(UTC)

    def reopened(before: JobRecord) -> JobRecord:
        if before != ended:
            raise InputError(
                f"{first.job} has changed meanwhile; look again with graft jobs show {first.job}"
            )
        resumption = Resumption(
            attempt=before.attempt, who=who, when=now.isoformat(), changes=dict(changes)
        )
        return before.model_copy(
            update={
                "state": "resumed",
                "where": first.where,
                "cluster": first.cluster,
                "final": False,
                "ended": None,
                "error": None,
                "losses": 0,
                "gpu_seconds": before.gpu_seconds + gpu_seconds(before, until),
                "gpus": 0,
                "resumptions": (*before.resumptions, resumption),
            }
        )

    return _update_record(store, first, reopened)[0]


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


def _told_key(job: str, attempt: int) -> str:
    return f"jobs/{job}/told/{attempt}"


def _bytes(record: JobRecord) -> bytes:
    return document_bytes(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
