"""Jobs in the store: what was submitted, and what the job itself recorded.

jobs/<job>/spec.yaml               the spec that was sent; makes the job exist
jobs/<job>/job.json                the job's record: a pointer that its current attempt moves
jobs/<job>/sent.json                to which cluster it was sent last, and what: `sent_jobs`
jobs/<job>/foreign                 that its run or sweep is not one that it made
jobs/<job>/told/<attempt>          that this one's pod was told to end: evicted, drained, preempted

A job's run, sweep or report has the job's id, so that a later attempt finds what an earlier one
left.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from graft.cluster.job_times import note_time
from graft.errors import (
    InputError,
    ObjectExists,
    ObjectNotFound,
)
from graft.spec import Id, Ref, Section
from graft.store import Store, read_document
from graft.store.recorded_specs import recorded_text

RecordedState = Literal["running", "succeeded", "failed", "cancelled", "resumed"]
"""How a job stands by its own record. Before its first attempt there is no record: what a person is
shown (`status.JobState`) has states for that time, too, which only its cluster knows."""


@dataclass(frozen=True)
class ClusterIdentity:
    """Which cluster a job is sent to."""

    place: str | None = None
    """Where it is, for people to read; None: not known."""
    uid: str | None = None
    """The same whichever way people reach the cluster; None: not known."""
    formerly: str | None = None
    """What earlier releases took for its uid; None: nothing else."""

    def is_same(self, other: "ClusterIdentity") -> bool:
        """Whether a job that was sent to the other one was sent to this one."""
        if other.uid and self.uid:
            return other.uid in (self.uid, self.formerly)
        return other.place is not None and other.place == self.place


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
    resource_class: str | None = None
    """The class of its workers; None: it is of no namespace with classes."""
    image: str | None = None
    """The image that its sender asked for; None: the namespace's."""


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

    FORMAT: ClassVar[int] = 3
    """1: without owner, pod, GPUs, losses and resumptions. 2: without when it was submitted."""

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
    submitted: Time | None = None
    """When a person sent it first; null: not known."""
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
    resource_class: str | None = None
    """The class of this attempt's workers; null: not known."""
    image: str | None = None
    """The image that was asked for; null: the namespace's."""
    gpu_seconds: float = 0.0
    """What earlier attempts held, times the seconds for which they did."""
    resumptions: tuple[Resumption, ...] = ()

    @property
    def start(self) -> datetime:
        """When this attempt began."""
        return datetime.fromisoformat(self.started)

    def gpu_hours(self, now: datetime) -> float:
        """Return the GPU hours that the job has taken until it ended, or `now`."""
        return (self.gpu_seconds + gpu_seconds(self, now)) / 3600

    def was_sent_to(self, cluster: ClusterIdentity) -> bool:
        """Whether the job was sent to this cluster, by whichever way its sender reached it."""
        return cluster.is_same(ClusterIdentity(self.where, self.cluster))


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


def gpu_seconds(record: JobRecord, now: datetime) -> float:
    """Return GPUs times seconds of a record's attempt; one that died ends when that is noticed."""
    end = datetime.fromisoformat(record.ended) if record.ended else now
    return record.gpus * max((end - record.start).total_seconds(), 0.0)


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


def record_key(job: str) -> str:
    """Return the key of a job's record."""
    return f"jobs/{job}/job.json"
