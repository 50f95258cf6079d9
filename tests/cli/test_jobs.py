"""`graft submit` and `graft jobs`, the real commands, on a cluster that answers as it is told.

Without one, and on a running Ray: test_submit. On a real Kubernetes: tests/cluster/e2e.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import commands
from cluster.scripted import Scripted, answer
from colours import colour_spec
from graft.cli.cluster_options import ClusterOptions
from graft.cluster.job_attempts import begin_attempt
from graft.cluster.job_logs import put_log
from graft.cluster.job_records import ClusterIdentity, Driver, Owner, read_job, submit_job
from graft.cluster.status import ClusterStatus
from graft.errors import ClusterLost
from graft.spec import dump_job
from graft.store import Store

HERE = Driver(ClusterIdentity("a test", "uid"), "head-1", Owner("ada", False), gpus=4)
HOURS_AGO = (datetime.now(UTC) - timedelta(hours=5)).isoformat()

Graft = Callable[..., commands.Done]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def on(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted], Graft]:
    """Return `graft` as it is on a cluster."""

    def on(cluster: Scripted) -> Graft:
        monkeypatch.setattr(ClusterOptions, "open_target", lambda _: (cluster, store))
        return commands.main

    return on


@pytest.fixture
def job(store: Store) -> str:
    """A job whose first attempt runs, and which waited for that."""
    submit_job(store, "one", dump_job(colour_spec()))
    begin_attempt(store, "one", "finetune", HERE, submitted=HOURS_AGO)
    put_log(store, "one", "driver@session_1@head", 0, b"epoch 1\n")
    return "one"


def test_a_list_has_ages_from_when_jobs_were_submitted(
    on: Callable[[Scripted], Graft], job: str
) -> None:
    graft = on(Scripted(answer("running")))
    (row,) = [line for line in graft("jobs", "ls").stdout.splitlines() if "ada" in line]
    assert re.search(r"one\W+5\.\d h\W+ada\W+running", row)
    listed = graft("jobs", "ls", "--mine", "--state", "running", "--json")
    (document,) = json.loads(listed.stdout)["jobs"]
    assert (document["submitted"], document["owner"]) == (HOURS_AGO, "ada")
    assert document["started"] > HOURS_AGO
    assert json.loads(graft("jobs", "ls", "--state", "failed", "--json").stdout) == {"jobs": []}
    (total,) = json.loads(graft("jobs", "ls", "--by", "owner", "--json").stdout)["owners"]
    assert (total["owner"], total["jobs"]) == ("ada", 1)
    assert "GPU hours" in graft("jobs", "ls", "--by", "owner").stdout
    for words, message in (
        (("--state", "runing"), "no state 'runing'; did you mean 'running'"),
        (("--by", "team"), "--by team: jobs are summed by owner only"),
    ):
        done = graft("jobs", "ls", *words)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_list_of_a_cluster_that_is_away_says_that_it_is_the_stores(
    on: Callable[[Scripted], Graft], job: str
) -> None:
    def away() -> ClusterStatus | None:
        raise ClusterLost("no answer from Ray")

    done = on(Scripted(away))("jobs", "ls", "--json")
    assert "from the store alone, which may be behind: no answer from Ray" in done.stderr
    # Nothing says that its cluster is gone.
    assert [status["state"] for status in json.loads(done.stdout)["jobs"]] == ["running"]


def test_a_job_is_shown_with_its_spec_and_its_logs(
    on: Callable[[Scripted], Graft], job: str
) -> None:
    graft = on(Scripted(answer("running")))
    shown = graft("jobs", "show", job, env={"COLUMNS": "100"}).stdout
    assert "kind: finetune" in shown
    assert "driver@session_1@head" in shown
    document = json.loads(graft("jobs", "show", job, "--json").stdout)
    assert document["spec"] == dump_job(colour_spec())
    assert document["submitted"] == HOURS_AGO


def test_cancelling_says_how_the_job_stands_from_then_on(
    on: Callable[[Scripted], Graft], store: Store, job: str
) -> None:
    cluster = Scripted(answer("running"))
    assert on(cluster)("jobs", "cancel", job).stdout == "one cancelled\n"
    assert cluster.cancelled == job
    record = read_job(store, job)
    assert record
    assert (record.state, record.submitted) == ("cancelled", HOURS_AGO)
    done = on(Scripted(lambda: None))("jobs", "cancel", job)
    assert done.returncode == 2
    assert "one has ended already: cancelled" in done.stderr


def test_a_job_is_removed_and_pruned_and_goes_on(
    on: Callable[[Scripted], Graft], store: Store, job: str
) -> None:
    long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    ended = Scripted(lambda: ClusterStatus("one", "finetune", "failed", ended=long_ago))
    assert on(ended)("jobs", "prune", "--older", "30d").stdout == "one\n"
    assert on(ended)("jobs", "prune", "--older", "60d").stdout == "no job ended so long ago\n"
    assert "removed from the cluster" in on(ended)("jobs", "rm", job).stdout
    assert ended.removed == [job, job]
    refused = on(Scripted(answer("running")))("jobs", "rm", job)
    assert refused.returncode == 2
    assert "one has not ended: running; graft jobs cancel one ends it" in refused.stderr
    bad = on(ended)("jobs", "prune", "--older", "soon")
    assert (bad.returncode, "--older: " in bad.stderr) == (2, True)

    gone = Scripted(*[lambda: None] * 3, answer("starting"))
    gone.old = ["ancient"]
    done = on(gone)("jobs", "resume", job, "--set", "jobs.retries=5")
    assert done.returncode == 0, done.stderr
    assert "the queue is not checked" in done.stderr
    assert "ended long ago are gone from the cluster, not from the store: ancient" in done.stderr
    (sent,) = gone.sent
    assert (sent.job, sent.settings) == (job, {"jobs.retries": "5"})
    record = read_job(store, job)
    assert record
    assert (record.state, record.submitted) == ("resumed", HOURS_AGO)


def test_a_job_is_sent_once_and_others_that_ended_long_ago_go(
    on: Callable[[Scripted], Graft], store: Store, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("kind: demo\n")
    cluster = Scripted(answer("starting"))
    cluster.old = ["ancient", "older"]
    done = on(cluster)("submit", str(spec), "--id", "one", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "starting"
    assert "not from the store: ancient, older" in done.stderr
    assert [sent.job for sent in cluster.sent] == ["one"]
    again = on(cluster)("submit", str(spec), "--id", "one")
    assert "one was submitted before" in again.stderr
    assert len(cluster.sent) == 1
    spec.write_text("kind: demo\nname: other\n")
    other = on(cluster)("submit", str(spec), "--id", "one")
    assert other.returncode == 2
    assert "there is a job 'one' with another spec; choose another --id" in other.stderr
    digits = on(cluster)("submit", str(spec), "--id", "2024")
    assert digits.returncode == 2
    assert "job id '2024': expected a name for Kubernetes" in digits.stderr
