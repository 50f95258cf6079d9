"""Jobs that go on: once more where whoever did that has died, and on the cluster they are of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.scripted import Scripted, answer
from colours import colour_spec
from graft.cluster import job_resuming
from graft.cluster.job_attempts import begin_attempt, cancel_job
from graft.cluster.job_overview import Jobs
from graft.cluster.job_records import ClusterIdentity, Driver, read_job, submit_job
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.sent_jobs import note_sent, read_sent
from graft.errors import InputError, RunFailed
from graft.spec import Finetune, dump_job
from graft.store import Store
from graft.training.amendments import read_amendments

HERE = ClusterIdentity("a test", "uid")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def spec(store: Store) -> Finetune:
    """The spec of a job that was sent and has failed for good."""
    spec = colour_spec()
    submit_job(store, "one", dump_job(spec))
    driver = Driver(HERE, "head-1", gpus=8, resource_class="gpu-a100")
    begin_attempt(store, "one", "finetune", driver).fail("no such class", final=True)
    return spec


def another() -> Scripted:
    cluster = Scripted(lambda: None)
    cluster.identity = ClusterIdentity("another", "other uid")
    return cluster


def test_what_its_cluster_does_not_know_yet_to_have_ended_goes_on(
    store: Store, spec: Finetune
) -> None:
    """A driver records the end, and exits; only then does its cluster see it."""
    cluster = Scripted(answer("running"))
    jobs = Jobs(cluster, store)
    assert jobs.status("one").state == "failed"
    jobs.remove("one")
    jobs.resume(Submission("one", spec))
    assert cluster.removed == ["one", "one"]
    assert len(cluster.sent) == 1
    with pytest.raises(InputError, match="one has not ended"):  # it is to go on by now
        jobs.remove("one")


@pytest.mark.parametrize("last", ["record_amendment", "note_sent", "submit"])
def test_a_resume_that_dies_on_the_way_is_repeated_by_its_name_alone(
    store: Store, spec: Finetune, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise SystemError

    epochs = spec.train.epochs + 4
    asked = Submission("one", spec, None, "cpu", settings={"jobs.retries": "5"})
    cluster = Scripted(lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(cluster if last == "submit" else job_resuming, last, dies)
        with pytest.raises(SystemError):
            Jobs(cluster, store).resume(asked, {"train.epochs": str(epochs)})
    jobs = Jobs(cluster, store)
    assert str(jobs.status("one")) == "failed: it was to go on, but was not sent again"
    jobs.resume(Submission("one", spec))
    (sent,) = cluster.sent
    assert (sent.resource_class, sent.settings) == ("cpu", {"jobs.retries": "5"})
    assert sent.amended
    assert sent.amended.train.epochs == epochs
    (amendment,) = read_amendments(store, "one")
    assert (amendment.changes, amendment.hardware) == ({"train.epochs": str(epochs)}, "cpu")


def test_what_was_sent_is_what_a_client_elsewhere_goes_on_with(store: Store) -> None:
    """Also where the job had no attempt yet that could have recorded it."""
    spec = colour_spec()
    sent = Submission("one", spec, "graft:mine", "gpu-a100", settings={"jobs.queue": "vision"})
    note_sent(store, Scripted(lambda: None), sent)
    submit_job(store, "one", dump_job(spec))
    cluster = Scripted(lambda: None)
    Jobs(cluster, store).resume(Submission("one", spec))
    assert cluster.sent == [replace(sent, amended=spec)]
    recorded = read_sent(store, "one")
    assert recorded
    assert (recorded.resource_class, recorded.image) == ("gpu-a100", "graft:mine")
    assert (recorded.where, recorded.cluster, recorded.who) == ("a test", "uid", "ada")


def test_a_job_that_another_cluster_has_queued_is_neither_lost_nor_sent_here(store: Store) -> None:
    spec = colour_spec()
    submission = Submission("one", spec)
    submit_job(store, "one", dump_job(spec))
    note_sent(store, Scripted(lambda: None), submission)
    note_sent(store, Scripted(lambda: None), submission)  # the same cluster may send it again
    there = another()
    jobs = Jobs(there, store)
    assert str(jobs.status("one")) == "starting: it was sent to a test"
    for refused in (
        lambda: note_sent(store, there, submission),
        lambda: jobs.resume(submission),
        lambda: jobs.cancel("one"),
        lambda: jobs.remove("one"),
    ):
        with pytest.raises(InputError, match=r"one was sent to a test, .* --take-over"):
            refused()
    assert (there.sent, there.removed, there.cancelled) == ([], [], "")
    jobs.resume(submission, take_over=True)
    assert [sent.job for sent in there.sent] == ["one"]
    # The first one's head begins after all.
    with pytest.raises(InputError, match="one was taken over by another; it ends here"):
        begin_attempt(store, "one", "finetune", Driver(HERE))
    begin_attempt(store, "one", "finetune", Driver(there.identity)).succeed(None)


def test_what_is_left_of_a_job_that_was_taken_over_says_nothing_and_is_removed(
    store: Store, spec: Finetune
) -> None:
    cancel_job(store, "one", "finetune")
    Jobs(another(), store).resume(Submission("one", spec), take_over=True)
    begin_attempt(store, "one", "finetune", Driver(another().identity))
    left = Scripted(answer("failed"))
    jobs = Jobs(left, store)
    assert str(jobs.status("one")) == "running"
    with pytest.raises(InputError, match="one was sent to another"):
        jobs.cancel("one")
    jobs.remove("one")
    assert left.cancelled == "one"
    assert str(jobs.status("one")) == "running"


def test_what_still_trains_on_the_former_cluster_publishes_nothing(store: Store) -> None:
    spec = colour_spec()
    submit_job(store, "one", dump_job(spec))
    attempt = begin_attempt(store, "one", "finetune", Driver(HERE))
    Jobs(another(), store).resume(Submission("one", spec), take_over=True)
    with pytest.raises(RunFailed, match="a newer attempt has taken this job over"):
        attempt.succeed("colours@1")


def test_a_namespace_is_the_same_where_its_chart_was_installed_anew(
    store: Store, spec: Finetune
) -> None:
    cluster = Scripted(lambda: None)
    cluster.identity = ClusterIdentity("a test", "of-namespace/graft-profile", formerly="uid")
    Jobs(cluster, store).resume(Submission("one", spec))
    record = read_job(store, "one")
    assert record
    assert record.cluster == "of-namespace/graft-profile"
