"""Jobs in the store: recorded once, taken on by one attempt at a time, their logs in order."""

import os
import threading
from functools import partial
from pathlib import Path

import pytest

from graft.cluster.job_attempts import begin_attempt, cancel_job, tell_end
from graft.cluster.job_list import list_jobs
from graft.cluster.job_logs import log_end, log_sources, put_log, read_log
from graft.cluster.job_records import Driver, read_job, read_job_spec, submit_job
from graft.cluster.log_shipping import Shipper, ship_until
from graft.errors import GraftError, InputError, NotFoundError, RunFailed
from graft.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_a_job_is_recorded_once(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    submit_job(store, "one", "kind: finetune\n")
    with pytest.raises(InputError, match="a job 'one' with another spec; choose another id"):
        submit_job(store, "one", "kind: sweep\n")
    assert list_jobs(store) == ["one"]
    assert read_job_spec(store, "one") == "kind: finetune\n"
    assert read_job(store, "one") is None
    with pytest.raises(NotFoundError, match=r"no job 'on' in .*did you mean 'one'"):
        read_job(store, "on")


def test_attempts_are_counted_and_the_last_one_says_how_it_ended(store: Store) -> None:
    submit_job(store, "one", "")
    first = begin_attempt(store, "one", "finetune")
    second = begin_attempt(store, "one", "finetune")
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(RunFailed, match="a newer attempt has taken this job over"):
        first.succeed("colours@1")
    second.fail("no images", final=False)
    failed = read_job(store, "one")
    assert failed is not None
    assert (failed.state, failed.error, failed.attempt) == ("failed", "no images", 2)
    third = begin_attempt(store, "one", "finetune")
    third.succeed("colours@1")
    done = read_job(store, "one")
    assert done is not None
    assert (done.state, done.error, done.model) == ("succeeded", None, "colours@1")
    assert done.ended is not None
    with pytest.raises(InputError, match="has succeeded already"):
        begin_attempt(store, "one", "finetune")


def test_a_mistake_is_not_tried_again(store: Store) -> None:
    submit_job(store, "one", "")
    begin_attempt(store, "one", "finetune").fail("no dataset 'x'", final=True)
    with pytest.raises(InputError, match="one has failed for good: no dataset 'x'; go on with"):
        begin_attempt(store, "one", "finetune")


def test_a_cancelled_job_publishes_nothing_any_more(store: Store) -> None:
    submit_job(store, "one", "")
    attempt = begin_attempt(store, "one", "finetune")
    assert cancel_job(store, "one", "finetune").state == "cancelled"
    with pytest.raises(RunFailed, match="or it was cancelled"):
        attempt.succeed("colours@1")
    with pytest.raises(
        InputError, match="one has been cancelled; go on with graft jobs resume one"
    ):
        begin_attempt(store, "one", "finetune")
    # Before anything began, and after all was done.
    assert cancel_job(store, "two", "sweep").attempt == 0
    with pytest.raises(InputError, match="two has been cancelled"):
        begin_attempt(store, "two", "sweep")
    submit_job(store, "three", "")
    begin_attempt(store, "three", "finetune").succeed(None)
    assert cancel_job(store, "three", "finetune").state == "succeeded"


def test_attempts_that_die_are_bounded_and_those_told_to_end_are_not(store: Store) -> None:
    """As KubeRay starts a driver in each new head, without end."""
    submit_job(store, "one", "")
    begin = partial(begin_attempt, store, "one", "finetune", retries=2)
    begin(Driver(pod="a"))  # and dies: its head had too little memory
    for pod in "bcdef":
        attempt = begin(Driver(pod=pod))
        tell_end(store, "one", attempt.number)
    assert attempt.number == 6
    attempt.fail("its workers ended before it", final=False)  # all the same, it was told
    begin(Driver(pod="g")).fail("no answer from the store", final=False)
    record = read_job(store, "one")
    assert record is not None
    assert (record.losses, record.preemptions) == (1, 5)
    begin(Driver(pod="h"))
    for _ in range(2):  # for good
        with pytest.raises(GraftError, match="go on with graft jobs resume one"):
            begin(Driver(pod="i"))
    record = read_job(store, "one")
    assert record is not None
    assert (record.state, record.final, record.attempt) == ("failed", True, 8)
    assert record.error == (
        "given up after 3 attempts that failed or died (jobs.retries is 2); "
        "the last one: its head died without a word, perhaps for want of memory"
    )


def test_a_container_that_starts_again_in_its_pod_was_not_preempted(store: Store) -> None:
    """Kubernetes says the same to one whose probe fails, and the pod stays."""
    submit_job(store, "one", "")
    for _ in range(2):
        hangs = begin_attempt(store, "one", "finetune", Driver(pod="a"), retries=1)
        tell_end(store, "one", hangs.number)
    with pytest.raises(GraftError, match="given up after 2 attempts"):
        begin_attempt(store, "one", "finetune", Driver(pod="a"), retries=1)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Ray's folder of logs, found as a pod finds it."""
    session = tmp_path / "session_2026-11-24_10-00-00_1_1"
    (session / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(session)
    return tmp_path / "session_latest" / "logs"


DRIVER = "driver@session_2026-11-24_10-00-00_1_1@head-pod"


def test_logs_are_shipped_as_they_grow_and_by_a_new_process_from_where_they_end(
    store: Store, logs: Path
) -> None:
    driver, worker = logs / "job-driver-one-x.log", logs / "worker-abc-01000000-7.err"
    (logs / "dashboard.log").write_text("of no interest")
    driver.write_bytes(b"epoch 1\n")
    shipper = Shipper(store, "one", logs, "head-pod")
    assert shipper.ship() == 8
    assert shipper.ship() == 0
    with driver.open("ab") as file:
        file.write(b"epoch 2\n")
    worker.write_bytes(b"warning\n")
    (logs / "raylet.out").write_bytes(b"out of memory\n")
    # As after a restart of its container.
    again = Shipper(store, "one", logs, "head-pod")
    assert again.ship() == 30
    session = DRIVER.partition("@")[2]
    sources = [DRIVER, f"raylet.out@{session}", f"worker-abc-01000000-7.err@{session}"]
    assert log_sources(store, "one") == sources
    assert b"".join(read_log(store, "one", DRIVER)) == b"epoch 1\nepoch 2\n"
    assert b"".join(read_log(store, "one", DRIVER, start=8)) == b"epoch 2\n"
    assert b"".join(read_log(store, "one", sources[1])) == b"out of memory\n"
    assert b"".join(read_log(store, "one", sources[2])) == b"warning\n"
    assert log_end(store, "one", DRIVER) == 16


def test_ray_that_is_started_again_in_the_same_pod_has_a_log_of_its_own(
    store: Store, logs: Path
) -> None:
    (logs / "job-driver-one-x.log").write_bytes(b"attempt 1, and more of it\n")
    shipper = Shipper(store, "one", logs, "head-pod")
    shipper.ship()
    latest = logs.parent
    again = latest.with_name("session_2026-11-24_10-05-00_1_1")
    (again / "logs").mkdir(parents=True)
    (again / "logs" / "job-driver-one-x.log").write_bytes(b"attempt 2\n")
    latest.unlink()
    latest.symlink_to(again)
    shipper.ship()
    said = [b"".join(read_log(store, "one", name)) for name in log_sources(store, "one")]
    assert said == [b"attempt 1, and more of it\n", b"attempt 2\n"]


def test_what_is_written_last_is_shipped_too(store: Store, logs: Path) -> None:
    ended, shipper = threading.Event(), Shipper(store, "one", logs, "head-pod")
    thread = threading.Thread(target=ship_until, args=(shipper, ended, print, 0.1))
    thread.start()
    ended.set()
    (logs / "job-driver-x.log").write_bytes(b"killed\n")
    thread.join(timeout=30)
    assert b"".join(read_log(store, "one", DRIVER)) == b"killed\n"


def test_a_store_that_fails_is_told_once_and_tried_again(store: Store, logs: Path) -> None:
    (logs / "job-driver-x.log").write_bytes(b"hello\n")
    ended, said = threading.Event(), list[str]()

    class Failing(Shipper):
        tries = 0

        def ship(self) -> int:
            self.tries += 1
            if self.tries == 2:
                ended.set()
            if self.tries < 4:
                raise InputError("no such bucket")
            return super().ship()

    ship_until(Failing(store, "one", logs, "head-pod"), ended, said.append, every_s=0.01)
    assert said == ["logs are not shipped for now: no such bucket"]
    assert b"".join(read_log(store, "one", DRIVER)) == b"hello\n"


def test_a_chunk_whose_answer_was_lost_is_not_in_the_way(store: Store, logs: Path) -> None:
    log = logs / "job-driver-x.log"
    log.write_bytes(b"one\n")
    shipper = Shipper(store, "one", logs, "head-pod")
    assert shipper.ship() == 4
    put_log(store, "one", DRIVER, 4, b"two\n")  # as a request that timed out
    log.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(InputError):
        shipper.ship()
    assert shipper.ship() == 6
    assert b"".join(read_log(store, "one", DRIVER)) == b"one\ntwo\nthree\n"


def test_a_chunk_is_never_changed(store: Store) -> None:
    put_log(store, "one", "driver@pod", 0, b"a" * 10)
    put_log(store, "one", "driver@pod", 0, b"a" * 10)
    with pytest.raises(InputError):
        put_log(store, "one", "driver@pod", 0, os.urandom(10))
