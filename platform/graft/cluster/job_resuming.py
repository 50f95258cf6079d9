"""Having a job go on that has ended, from what it has committed.

In this order, so that whoever dies on the way may do the same again: what is wrong is found first;
the former RayJob goes; the record says that the job goes on, and with what; then what is otherwise
in its run is recorded, what is sent, and it is sent. A job that says it goes on and was not sent is
one that has ended, and what it was to go on with is what it goes on with then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from graft.cluster.cluster_jobs import ClusterJobs, remove_ended, tidied
from graft.cluster.job_attempts import overtake, reopen_job
from graft.cluster.job_records import ClusterIdentity, JobRecord, read_job, submit_job
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.sent_jobs import SentJob, elsewhere, home_of, note_sent, read_sent
from graft.cluster.status import JobStatus
from graft.errors import InputError, NotFoundError
from graft.spec import Finetune, dump_job
from graft.store import Store
from graft.training.amendments import new_amendment, record_amendment


@dataclass(frozen=True)
class _Before:
    """What a job had, or was to go on with."""

    resource_class: str | None = None
    image: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    unsent: Mapping[str, str] = field(default_factory=dict)
    """What of its spec was to be otherwise, where it was to go on and was not sent."""

    def filled_in(self, submission: Submission) -> Submission:
        """Return a submission with what it does not name as it was before."""
        return replace(
            submission,
            image=submission.image or self.image,
            resource_class=submission.resource_class or self.resource_class,
            settings={**self.settings, **submission.settings},
        )


def resume_job(
    cluster: ClusterJobs,
    store: Store,
    status: JobStatus,
    submission: Submission,
    changes: Mapping[str, str],
    take_over: bool = False,
) -> list[str]:
    """Have a job go on that has ended.

    Args:
        cluster: where it goes on.
        store: where it is recorded.
        status: how it stands.
        submission: as it is sent, with the spec that it was submitted with. Class, image and
            settings that it does not name are those that the job had.
        changes: what of that spec is otherwise from now on, values as YAML by dotted key.
        take_over: that it was sent to another cluster does not matter: what still runs there
            publishes nothing any more.

    Returns:
        What could not be checked, a line each.

    Raises:
        InputError: it has succeeded or has not ended, it is another cluster's, that cannot change,
            or it could never run; then nothing has changed.
    """
    job, identity = submission.job, cluster.identity
    record, sent = _record(store, job), read_sent(store, job)
    home = home_of(record, sent)
    moves = home is not None and not identity.is_same(home)
    _check_ended(status, home if moves else None, identity, take_over)
    before = _before(record, sent)
    changes = {**before.unsent, **changes}
    if not moves:
        submission = before.filled_in(submission)
    otherwise = _otherwise(submission, record, changes)
    hardware = otherwise.get("class")
    if moves:
        hardware = f"{submission.resource_class or 'the default'} of {identity.place}"
    user, amendment = cluster.owner().who, None
    if isinstance(submission.spec, Finetune):
        amendment, spec = new_amendment(store, job, submission.spec, user, changes, hardware)
        submission = replace(submission, amended=spec)
    elif changes:
        raise InputError(
            f"--set {next(iter(changes))}: of a {status.kind} that goes on, jobs.* alone can "
            "change; submit it under another id"
        )
    notes = cluster.check(submission)
    submit_job(store, job, dump_job(submission.spec))  # where it was lost before it began
    if not moves:
        remove_ended(cluster, store, job)
    now = datetime.now(UTC)
    until = datetime.fromisoformat(status.ended) if status.ended else now
    reopen_job(store, record, _resumed(status, identity, now), until, user, otherwise)
    if moves:
        overtake(store, job, status.kind)
    if amendment:
        record_amendment(store, job, amendment)
    note_sent(store, cluster, submission, take_over=True)  # the record has changed hands
    cluster.submit(submission)
    return [*notes, *tidied(cluster)]


def _record(store: Store, job: str) -> JobRecord | None:
    try:
        return read_job(store, job)
    except NotFoundError:
        return None


def _check_ended(
    status: JobStatus,
    other: ClusterIdentity | None,
    here: ClusterIdentity,
    take_over: bool,
) -> None:
    """Find out whether a job may be sent to a cluster once more.

    `other`: the cluster that it is bound to, where that is another one.

    Raises:
        InputError: it has succeeded or has not ended, or it may go on elsewhere.
    """
    job = status.job
    if status.state == "succeeded":
        raise InputError(f"{job} has succeeded; there is nothing to go on with")
    if other and not take_over:
        raise elsewhere(job, other, here, "sent again")
    if not other and not status.has_ended:
        raise InputError(f"{job} has not ended: {status}; graft jobs cancel {job} ends it")


def _otherwise(
    submission: Submission, record: JobRecord | None, changes: Mapping[str, str]
) -> dict[str, str]:
    """Return what is otherwise than in a job's last attempt, as its record names it.

    The settings of earlier resumptions, too: the next one looks at the last.
    """
    otherwise = {**submission.settings, **changes}
    named = {"class": submission.resource_class, "image": submission.image}
    last = {"class": record and record.resource_class, "image": record and record.image}
    return otherwise | {key: value for key, value in named.items() if value and value != last[key]}


def _resumed(status: JobStatus, identity: ClusterIdentity, now: datetime) -> JobRecord:
    """Return the record of a job that goes on, where the store has none of it."""
    return JobRecord(
        job=status.job,
        kind=status.kind,
        state="resumed",
        attempt=0,
        where=identity.place,
        cluster=identity.uid,
        submitted=status.submitted,
        started=now.isoformat(),
    )


def _before(record: JobRecord | None, sent: SentJob | None) -> _Before:
    last = dict(record.resumptions[-1].changes) if record and record.resumptions else {}
    resource_class, image = last.pop("class", None), last.pop("image", None)
    settings = {key: value for key, value in last.items() if key.startswith("jobs.")}
    if record and record.state == "resumed":  # and had no attempt since
        unsent = {key: value for key, value in last.items() if key not in settings}
    else:
        resource_class, image, unsent = None, None, {}
    for source in (record, sent):
        if source:
            resource_class = resource_class or source.resource_class
            image = image or source.image
    if sent and not (record and record.resumptions):
        settings = dict(sent.settings)
    return _Before(resource_class, image, settings, unsent)
