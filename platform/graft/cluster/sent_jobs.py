"""What was sent to a cluster, as the store remembers it: to which one, and all of it.

jobs/<job>/sent.json   what was sent last; a pointer that moves when the job is sent once more

A job is bound to the cluster that it was sent to: another one that uses the same store neither
sends, cancels nor removes it, until a person has it taken over.
"""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import Field

from graft.cluster.cluster_jobs import ClusterJobs
from graft.cluster.job_records import ClusterIdentity, JobRecord, Time
from graft.cluster.rayjob_manifest import Submission
from graft.errors import InputError, ObjectChanged, ObjectExists, ObjectNotFound
from graft.spec import Id, Section
from graft.store import Store, document_bytes, find_document, parse_document
from graft.store.retries import swaps


class SentJob(Section):
    """What was sent last."""

    FORMAT: ClassVar[int] = 1

    job: Id
    where: str | None
    """`ClusterIdentity.place`."""
    cluster: str | None
    """`ClusterIdentity.uid`."""
    who: str
    when: Time
    resource_class: str | None = None
    """As it was asked for; null: the namespace's default."""
    image: str | None = None
    """As it was asked for; null: the namespace's."""
    settings: dict[str, str] = Field(default={})
    """What it has otherwise than the namespace's profile says, see `Profile.with_settings`."""
    manifest: dict[str, Any] = Field(default={})
    """What the cluster was asked for."""


def read_sent(store: Store, job: str) -> SentJob | None:
    """Return what was sent last; None: not known, it was sent without the store or long ago."""
    return find_document(store, _key(job), SentJob)


def home_of(record: JobRecord | None, sent: SentJob | None) -> ClusterIdentity | None:
    """Return the cluster that a job is bound to; None: not known."""
    for bound in (record, sent):
        if bound and (bound.cluster or bound.where):
            return ClusterIdentity(bound.where, bound.cluster)
    return None


def note_sent(
    store: Store, cluster: ClusterJobs, submission: Submission, take_over: bool = False
) -> None:
    """Bind a job to a cluster that it is about to be sent to, and record what is sent.

    Raises:
        InputError: it is bound to another one, and `take_over` does not say that it is taken over.
    """
    job = submission.job
    sent = SentJob(
        job=job,
        where=cluster.identity.place,
        cluster=cluster.identity.uid,
        who=cluster.owner().who,
        when=datetime.now(UTC).isoformat(),
        resource_class=submission.resource_class,
        image=submission.image,
        settings=dict(submission.settings),
        manifest=json.loads(cluster.show(submission, as_json=True)),
    )
    turn = swaps(f"{store.uri}/{_key(job)}")
    while True:
        next(turn)
        try:
            current = store.read(_key(job))
        except ObjectNotFound:
            with contextlib.suppress(ObjectExists):
                store.create(_key(job), document_bytes(sent))
                return
            continue
        home = home_of(None, parse_document(store, _key(job), current.data, SentJob))
        if home and not cluster.identity.is_same(home) and not take_over:
            raise elsewhere(job, home, cluster.identity, "sent")
        with contextlib.suppress(ObjectChanged):
            store.replace(_key(job), document_bytes(sent), current.etag)
            return


def elsewhere(job: str, home: ClusterIdentity, here: ClusterIdentity, what: str) -> InputError:
    """Return why a job is not `what` (cancelled, removed) here, and what to do."""
    return InputError(
        f"{job} was sent to {home.place or home.uid}, where it may go on, and is not {what} in "
        f"{here.place}: name that cluster (--kube-context, --namespace, --profile, --address); or "
        f"graft jobs resume {job} --take-over has it go on here, and publish nothing there"
    )


def _key(job: str) -> str:
    return f"jobs/{job}/sent.json"
