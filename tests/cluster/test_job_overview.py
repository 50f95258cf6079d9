"""Jobs after their end: they go on, are removed and pruned; and which of them a list has."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from cluster.scripted import Scripted, answer
from colours import colour_spec
from graft.cluster.cluster_jobs import prune_jobs
from graft.cluster.job_attempts import begin_attempt, cancel_job
from graft.cluster.job_list import newest_jobs
from graft.cluster.job_overview import BATCH, Jobs
from graft.cluster.job_records import (
    ClusterIdentity,
    Driver,
    JobRecord,
    Owner,
    read_job,
    submit_job,
)
from graft.cluster.job_times import note_time
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.status import ClusterStatus
from graft.errors import InputError, RunFailed
from graft.spec import Finetune, dump_job
from graft.store import Store, document_bytes
from graft.store.backend import Versioned
from graft.training.amendments import read_amendments


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_an_ended_job_goes_on_and_one_that_has_succeeded_or_runs_does_not(store: Store) -> None:
    spec = colour_spec()
    submit_job(store, "one", dump_job(spec))
    begin = partial(begin_attempt, store, "one", "finetune", Driver(ClusterIdentity("a test")))
    begin()
    submission = Submission("one", spec, None, "big", settings={"jobs.retries": "5"})
    running = Scripted(answer("running"))
    with pytest.raises(InputError, match="has not ended: running; graft jobs cancel one ends it"):
        Jobs(running, store).resume(submission)
    assert (running.sent, running.removed) == ([], [])
    with pytest.raises(RunFailed, match="go on with graft jobs resume one"):
        begin(retries=0)  # its retries are used up
    cluster = Scripted(lambda: None)
    jobs = Jobs(cluster, store)
    jobs.resume(submission)
    assert (cluster.sent, cluster.removed) == ([replace(submission, amended=spec)], ["one"])
    assert str(jobs.status("one")) == "failed: it was to go on, but was not sent again"
    assert begin(retries=0).number == 2
    record = read_job(store, "one")
    assert record is not None
    (resumption,) = record.resumptions
    assert (resumption.attempt, resumption.who) == (1, "ada")
    assert resumption.changes == {"jobs.retries": "5", "class": "big"}
    cancel_job(store, "one", "finetune")
    jobs.resume(submission)
    begin(retries=0).succeed(None)
    with pytest.raises(InputError, match="one has succeeded; there is nothing to go on with"):
        jobs.resume(submission)


def ended_job(store: Store, driver: Driver) -> Finetune:
    """Record a job whose first attempt has failed for good; return its spec."""
    spec = colour_spec()
    submit_job(store, "one", dump_job(spec))
    begin_attempt(store, "one", "finetune", driver).fail("no such class", final=True)
    return spec


ON_GPUS = Driver(
    ClusterIdentity("a test", "uid"),
    "head-1",
    Owner("ada", self_declared=False),
    gpus=8,
    resource_class="gpu-a100",
    image="graft:mine",
)


def test_a_job_that_could_not_run_stays_as_it_was(store: Store) -> None:
    spec = ended_job(store, ON_GPUS)
    before = {key: store.read(key).data for key, _ in store.scan("")}
    cluster = Scripted(lambda: None)
    cluster.refuses = "unknown resource class 'gpu-a1000'"
    with pytest.raises(InputError, match="a1000"):
        Jobs(cluster, store).resume(Submission("one", spec, None, "gpu-a1000"))
    assert {key: store.read(key).data for key, _ in store.scan("")} == before
    assert (cluster.sent, cluster.removed) == ([], [])


def test_a_job_goes_on_with_the_class_image_and_settings_that_it_had(store: Store) -> None:
    spec = ended_job(store, ON_GPUS)
    cluster = Scripted(lambda: None)
    jobs = Jobs(cluster, store)
    same = Submission("one", spec, None, "gpu-a100", settings={"jobs.queue": "vision"})
    assert jobs.resume(same) == ["the queue is not checked"]
    begin_attempt(store, "one", "finetune", ON_GPUS).fail("again", final=True)
    jobs.resume(Submission("one", spec, settings={"jobs.retries": "5"}))
    assert read_amendments(store, "one") == ()  # the same hardware
    for sent in cluster.sent:
        assert (sent.resource_class, sent.image) == ("gpu-a100", "graft:mine")
    assert cluster.sent[1].settings == {"jobs.queue": "vision", "jobs.retries": "5"}
    begin_attempt(store, "one", "finetune", ON_GPUS).fail("again", final=True)
    jobs.resume(Submission("one", spec, None, "cpu"))
    assert cluster.sent[2].settings == {"jobs.queue": "vision", "jobs.retries": "5"}
    (amendment,) = read_amendments(store, "one")
    assert (amendment.hardware, amendment.is_exact) == ("cpu", False)


def test_a_job_is_resumed_once_and_not_on_two_clusters(store: Store) -> None:
    spec = ended_job(store, ON_GPUS)
    cluster = Scripted(lambda: None)

    class Slow(Scripted):
        def check(self, submission: Submission) -> list[str]:
            Jobs(cluster, store).resume(submission)  # another person is faster
            return []

    slow = Slow(lambda: None)
    with pytest.raises(InputError, match="one has changed meanwhile"):
        Jobs(slow, store).resume(Submission("one", spec))
    assert (len(cluster.sent), slow.sent) == (1, [])
    elsewhere = Scripted(lambda: None)
    elsewhere.identity = ClusterIdentity("another", "other uid")
    with pytest.raises(InputError, match="one was sent to a test, where it may go on"):
        Jobs(elsewhere, store).resume(Submission("one", spec))
    assert Jobs(elsewhere, store).status("one").state == "starting"
    assert Jobs(None, store).status("one").state == "starting"


def test_hours_of_gpus_end_with_the_last_that_was_heard_and_are_their_owners(store: Store) -> None:
    spec = colour_spec()
    submit_job(store, "one", dump_job(spec))
    begin_attempt(store, "one", "finetune", ON_GPUS)
    friday = datetime.now(UTC) - timedelta(days=3)
    begun = read_job(store, "one")
    assert begun
    record = begun.model_copy(update={"started": friday.isoformat()})
    store.write("jobs/one/job.json", document_bytes(record))
    heard = int((friday + timedelta(hours=2)).timestamp())
    store.write(f"jobs/one/logs/driver@1@head/000000000000-{heard}", b"epoch 1\n")
    cluster = Scripted(lambda: None)
    jobs = Jobs(cluster, store)
    died = jobs.status("one")  # without a word, and its RayJob was deleted
    assert (died.state, died.owner) == ("failed", "ada")
    assert died.gpu_hours == pytest.approx(16, abs=0.01)
    jobs.resume(Submission("one", spec))
    bobs = replace(ON_GPUS, owner=Owner("bob", self_declared=False))
    begin_attempt(store, "one", "finetune", bobs)
    running = Jobs(Scripted(answer("running")), store).status("one")
    assert (running.state, running.owner) == ("running", "ada")
    assert running.gpu_hours == pytest.approx(16, abs=0.01)


def test_what_has_ended_is_removed_and_stays_in_the_store(store: Store) -> None:
    submit_job(store, "one", "")
    begin_attempt(store, "one", "finetune").succeed(None)
    cluster = Scripted(answer("succeeded"))
    Jobs(cluster, store).remove("one")
    assert cluster.removed == ["one"]
    assert str(Jobs(Scripted(lambda: None), store).status("one")) == "succeeded"
    with pytest.raises(InputError, match="has not ended"):
        Jobs(Scripted(answer("running")), Store.open(f"{store.uri}2")).remove("one")


def test_pruning_takes_what_ended_long_ago_however_it_ended() -> None:
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for state, older_s, pruned in [
        ("succeeded", 1800, True),
        ("failed", 1800, True),
        ("cancelled", 1800, True),
        ("running", 1800, False),
        ("failed", 7200, False),
    ]:
        status = ClusterStatus("one", "finetune", state, ended=hour_ago)  # type: ignore[arg-type]
        cluster = Scripted(lambda status=status: status)
        assert prune_jobs(cluster, older_s, most=0) == []
        assert bool(prune_jobs(cluster, older_s)) == pruned
        assert cluster.removed == (["one"] if pruned else [])


def test_the_latest_jobs_are_listed_first_and_others_cost_nothing(store: Store) -> None:
    for number in range(40):
        job = f"job-{number:02d}"
        store.write(f"jobs/{job}/spec.yaml", b"")
        note_time(store, job, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number))
    read = list[str]()
    original = store.read

    def counted(key: str) -> Versioned:
        read.append(key)
        return original(key)

    jobs = Jobs(None, store)
    list(jobs.newest())  # gives the store its index
    store.read = counted  # type: ignore[method-assign]
    (latest,) = islice(jobs.newest(), 1)
    assert latest.job == "job-39"
    assert len(read) < 3 * BATCH


def test_jobs_of_an_earlier_release_are_listed_by_the_time_of_their_record(store: Store) -> None:
    for job, started in (("old", "2026-01-01"), ("new", "2026-03-01"), ("middle", "2026-02-01")):
        store.write(f"jobs/{job}/spec.yaml", b"")
        record = JobRecord(
            job=job, kind="finetune", state="failed", attempt=1, started=f"{started}T10:00:00+00:00"
        )
        store.write(f"jobs/{job}/job.json", record.model_dump_json().encode())
    submit_job(store, "newest", "")
    assert [job for _, job in newest_jobs(store)] == ["newest", "new", "middle", "old"]
    # One that the cluster has waits since then, and is not listed before what was sent since.
    queued = ClusterStatus("queued", "finetune", "queued", created="2026-02-15T10:00:00Z")
    jobs = [status.job for status in Jobs(Scripted(lambda: queued), store).newest()]
    assert jobs == ["newest", "new", "queued", "middle", "old"]
