"""Following a job through a cluster that goes away, and a store that keeps what it said."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.scripted import Scripted, answer
from colours import colour_spec
from graft.cli.show.job_log import Output
from graft.cluster import job_overview
from graft.cluster import log_following as following
from graft.cluster.job_attempts import begin_attempt
from graft.cluster.job_logs import log_end, put_log
from graft.cluster.job_overview import Jobs
from graft.cluster.job_progress import job_progress
from graft.cluster.job_records import ClusterIdentity, Driver, submit_job
from graft.cluster.log_following import Log, follow
from graft.cluster.status import ClusterStatus, JobStatus
from graft.errors import ClusterLost, InputError, NotFoundError, ResourceError, RunFailed, StillRuns
from graft.spec import Sweep, parse_job
from graft.store import Store
from graft.store.backend import Versioned
from graft.sweep.sweep_plan import Facts, Resolved, Splits, StageCost, Throughput, make_sweep_plan
from graft.sweep.sweep_records import create_sweep


def lost() -> ClusterStatus | None:
    raise ClusterLost("no answer from Kubernetes")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_states_and_log_come_in_order_and_end_with_the_job(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    attempt = begin_attempt(store, "one", "finetune")
    put_log(store, "one", "driver@session_1@head-a", 0, b"epoch 1\n")
    put_log(store, "one", "worker-1.out@session_1@head-a", 0, b"not the driver's\n")
    cluster = Scripted(
        answer("starting", "1 of 3 pods run"),
        answer("starting", "1 of 3 pods run"),
        answer("running"),
    )
    jobs, seen = Jobs(cluster, store), list[str]()
    for item in follow(jobs, "one", Log(jobs, "one"), every_s=0.01):
        if isinstance(item, JobStatus):
            seen.append(str(item))
        else:
            seen.append(item.data.decode())
        if seen[-1] == "running":
            put_log(store, "one", "driver@session_1@head-a", 8, b"epoch 2\n")
            attempt.succeed("photos@1")
    assert seen == [
        "starting: 1 of 3 pods run",
        "epoch 1\n",
        "running",
        "epoch 2\n",
        "succeeded: photos@1",
    ]


def test_the_logs_of_attempts_come_in_their_order(store: Store) -> None:
    submit_job(store, "one", "")
    for log, said in (
        ("driver@session_2026-11-24_09@z-head", b"attempt 1\n"),
        ("driver@session_2026-11-24_10@a-head", b"attempt 2\n"),
    ):
        put_log(store, "one", log, 0, said)
    log = Log(Jobs(Scripted(lambda: None), store), "one")
    assert [chunk.data for chunk in log.new()] == [b"attempt 1\n", b"attempt 2\n"]
    assert list(log.new()) == []


def test_a_cluster_that_comes_back_is_followed_on(store: Store) -> None:
    cluster = Scripted(answer("running"), lost, lost, answer("succeeded"))
    states = [str(item) for item in follow(Jobs(cluster, None), "one", None, every_s=0.01)]
    assert states == ["running", "succeeded"]


def test_a_cluster_that_stays_away_is_given_up_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "LOST_S", 0.05)
    cluster = Scripted(answer("running"), lost)
    with pytest.raises(ClusterLost, match=r"look later with graft jobs show one, or go on here"):
        list(follow(Jobs(cluster, None), "one", None, every_s=0.01))


def test_a_driver_is_heard_from_its_cluster_where_the_store_is_out_of_reach() -> None:
    cluster = Scripted(answer("running"), answer("running"), answer("succeeded"))
    jobs = Jobs(cluster, None)
    log = Log(jobs, "one")
    cluster.said = "epoch 1\n"
    assert [chunk.data for chunk in log.new()] == [b"epoch 1\n"]
    cluster.said = "epoch 1\nepoch 2\n"
    assert [chunk.data for chunk in log.new()] == [b"epoch 2\n"]
    cluster.said = "attempt 2\n"  # of another pod
    assert [chunk.data for chunk in log.new()] == [b"attempt 2\n"]


def test_nobody_takes_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_overview, "ACCEPT_S", 0.0)
    cluster = Scripted(answer("starting", "the KubeRay operator has not taken it up"))
    with pytest.raises(ResourceError, match="is the KubeRay operator running"):
        Jobs(cluster, None).accepted("one")


def test_a_job_that_nobody_knows(store: Store) -> None:
    submit_job(store, "one", "")
    with pytest.raises(NotFoundError, match=r"no job 'on' in a test and .*did you mean 'one'"):
        Jobs(Scripted(lambda: None), store).status("on")


def test_a_job_of_another_cluster_is_what_the_store_says(store: Store) -> None:
    for job, place, uid in (
        ("here", "a test", None),
        ("here-by-another-way", "a tunnel", "uid"),
        ("there", "another", None),
        ("there-by-the-same-way", "a test", "another uid"),
        ("somewhere", None, None),
    ):
        submit_job(store, job, "")
        begin_attempt(store, job, "finetune", Driver(ClusterIdentity(place, uid)))
    jobs = Jobs(Scripted(lambda: None), store)
    assert {status.job: str(status) for status in jobs.newest()} == {
        "here": "failed: its cluster is gone, and it did not say how it ended",
        "here-by-another-way": "failed: its cluster is gone, and it did not say how it ended",
        "there": "running",
        "there-by-the-same-way": "running",
        "somewhere": "running",
    }
    with pytest.raises(InputError, match=r"there was sent to another, .* not cancelled in a test"):
        jobs.cancel("there")


def test_what_never_got_into_the_store_is_read_from_the_cluster(store: Store) -> None:
    cluster = Scripted(answer("failed", "exit 2"))
    cluster.said = "graft: wrong credentials\n"
    log = Log(Jobs(cluster, store), "one")
    assert list(log.new()) == []  # it may yet come
    assert [chunk.data for chunk in log.new(last=True)] == [b"graft: wrong credentials\n"]


def test_cancelling(store: Store) -> None:
    submit_job(store, "one", "")
    attempt = begin_attempt(store, "one", "finetune", Driver(ClusterIdentity("a test")))
    cluster = Scripted(answer("running"))
    Jobs(cluster, store).cancel("one")
    assert cluster.cancelled == "one"
    with pytest.raises(RunFailed, match="or it was cancelled"):
        attempt.succeed(None)
    cluster.cancelled = ""
    Jobs(cluster, store).cancel("one")  # the first time its pods could not be deleted, say
    assert cluster.cancelled == "one"
    with pytest.raises(InputError, match="one has ended already: cancelled"):
        Jobs(Scripted(lambda: None), store).cancel("one")
    with pytest.raises(InputError, match="takes the cluster that it runs on"):
        Jobs(None, store).cancel("one")


def test_a_cluster_that_is_gone_for_good_is_not_asked_for_what_the_store_knows(
    store: Store,
) -> None:
    submit_job(store, "one", "")
    begin_attempt(store, "one", "finetune", Driver(ClusterIdentity("a test"))).succeed("photos@1")
    assert str(Jobs(Scripted(lost), store).status("one")) == "succeeded: photos@1"


def test_how_far_a_transfer_report_is(store: Store) -> None:
    base = colour_spec(register=None)
    search = {"kind": "list", "trials": [{"train.seed": seed} for seed in range(3)]}
    document = base.model_dump(mode="json", by_alias=True)
    sweep = parse_job({"kind": "sweep", "name": "r", "base": document, "search": search}, "", Sweep)
    facts = Facts(9, 3, (StageCost("stem", 1.0, 8),), 1.0, 1, 0, Splits(9, 3))
    trials = [Resolved(changes, base, facts) for changes in search["trials"]]
    plan = make_sweep_plan(sweep, trials, Throughput(gflops=1.0, images=1.0))
    assert job_progress(store, "r", "transfer-report") is None
    create_sweep(store, sweep, plan, "r-rates")
    assert job_progress(store, "r", "transfer-report") == "rates: 0 of 3 trials done"
    create_sweep(store, sweep, plan, "r-seeds")
    assert job_progress(store, "r", "transfer-report") == "seeds: 0 of 3 trials done"


def test_logs_of_attempts_that_are_long_over_are_not_asked_for_again(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    for number in range(5):
        put_log(store, "one", f"driver@session_{number}@head", 0, b"line\n")
    log, listed = Log(Jobs(None, store), "one"), list[str]()
    original = store.scan

    def counted(prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        listed.append(prefix)
        return original(prefix, after=after)

    store.scan = counted  # type: ignore[method-assign]
    assert len(list(log.new())) == len(listed) == 5
    listed.clear()
    put_log(store, "one", "driver@session_3@head", 5, b"its last\n")
    assert [chunk.data for chunk in log.new()] == [b"its last\n"]
    assert [prefix.split("@")[1] for prefix in listed] == ["session_3", "session_4"]
    listed.clear()
    assert list(log.new(last=True)) == []
    assert len(listed) == 5


def test_logs_alone_make_no_job(store: Store) -> None:
    put_log(store, "early", "driver@head", 0, b"")
    assert list(Jobs(None, store).newest()) == []


def test_a_ray_that_is_gone_leaves_what_the_store_knows(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    begin_attempt(store, "one", "finetune").succeed("m@1")
    put_log(store, "one", "driver@session_1@head-a", 0, b"the end\n")
    cluster = Scripted(lost)
    cluster.ships_logs = False
    jobs = Jobs(cluster, store)
    assert jobs.spec("one") == "kind: finetune\n"
    assert [str(status) for status in jobs.newest()] == ["succeeded: m@1"]
    (chunk,) = Log(jobs, "one").new(last=True)
    assert (chunk.source, chunk.data) == ("driver@session_1@head-a", b"the end\n")


def test_what_has_just_ended_is_not_cancelled(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    begin_attempt(store, "one", "finetune").succeed(None)
    cluster = Scripted(answer("running"))
    with pytest.raises(InputError, match="one has ended already: succeeded"):
        Jobs(cluster, store).cancel("one")
    assert cluster.cancelled == ""


def test_a_log_is_cut_to_its_end_or_to_what_is_new(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_job(store, "one", "")
    for time, offset, said in ((1000, 0, b"a\nb\n"), (2000, 4, b"c\nd"), (2002, 7, b"d\n")):
        monkeypatch.setattr("graft.cluster.job_logs.time.time", lambda time=time: time)
        put_log(store, "one", "driver@1@h", offset, said)
    jobs = Jobs(None, store)

    def shown(output: Output, since: datetime | None = None) -> str:
        for chunk in Log(jobs, "one", since=since).new(last=True):
            output.show(chunk)
        output.release()
        return capsys.readouterr().out

    assert shown(Output()) == "a\nb\nc\ndd\n"
    assert shown(Output(tail=2)) == "c\ndd\n"
    assert shown(Output(tail=0)) == ""
    assert shown(Output(), datetime.fromtimestamp(1500, UTC)) == "c\ndd\n"
    stamped = shown(Output(timestamps=True, tail=1))
    assert stamped == "1970-01-01T00:33:20Z dd\n"


def test_the_end_of_a_long_log_is_found_without_reading_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.cluster.job_logs.PAGE", 10)
    monkeypatch.setattr("graft.cluster.job_logs.TAIL_BYTES", 16)
    submit_job(store, "one", "")
    source, offset = "driver@1@h", 0
    for number in range(500):
        line = f"{number}\n".encode()
        put_log(store, "one", source, offset, line)
        offset += len(line)
    assert log_end(store, "one", source) == offset
    assert log_end(store, "one", "driver@2@h") == 0
    read, original = list[str](), store.read

    def counted(key: str) -> Versioned:
        read.append(key)
        return original(key)

    store.read = counted  # type: ignore[method-assign]
    chunks = Log(Jobs(None, store), "one", tail=7).new(last=True)
    said = b"".join(chunk.data for chunk in chunks).split()
    assert said[-7:] == [b"493", b"494", b"495", b"496", b"497", b"498", b"499"]
    assert len(read) < 60


def test_lines_of_drivers_are_not_glued_together(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    submit_job(store, "one", "")
    put_log(store, "one", "driver@1@h", 0, b"epoch 1\nepo")  # killed
    put_log(store, "one", "driver@2@i", 0, b"job one, attempt 2\n")
    output = Output(tail=2)
    for chunk in Log(Jobs(None, store), "one").new(last=True):
        output.show(chunk)
    output.release()
    assert capsys.readouterr().out == "epo\njob one, attempt 2\n"


def test_who_has_no_time_to_wait_is_told_what_has_ended(store: Store) -> None:
    ended = Jobs(Scripted(answer("succeeded")), store)
    (status,) = follow(ended, "one", None, timeout_s=0)
    assert isinstance(status, JobStatus)
    assert status.state == "succeeded"
    with pytest.raises(StillRuns, match="one has not ended within 0 s: running; it goes on"):
        list(follow(Jobs(Scripted(answer("running")), store), "one", None, timeout_s=0))
