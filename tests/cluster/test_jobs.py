"""Jobs in the store: recorded once, taken on by one attempt at a time, their logs in order."""

import os
import threading
from pathlib import Path

import pytest

from graft.cluster.jobs import (
    begin_attempt,
    list_jobs,
    log_end,
    log_sources,
    put_log,
    read_job,
    read_job_spec,
    read_log,
    submit_job,
)
from graft.cluster.ship import Shipper, ship_until
from graft.errors import InputError, NotFoundError, RunFailed
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
        first.end("succeeded", model="colours@1")
    second.end("failed", error="no images")
    failed = read_job(store, "one")
    assert failed is not None
    assert (failed.state, failed.error, failed.attempt) == ("failed", "no images", 2)
    third = begin_attempt(store, "one", "finetune")
    third.end("succeeded", model="colours@1")
    done = read_job(store, "one")
    assert done is not None
    assert (done.state, done.error, done.model) == ("succeeded", None, "colours@1")
    assert done.ended is not None
    with pytest.raises(InputError, match="has succeeded already"):
        begin_attempt(store, "one", "finetune")


def test_logs_are_shipped_as_they_grow_and_by_a_new_process_from_where_they_end(
    store: Store, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    driver, worker = logs / "job-driver-one-x.log", logs / "worker-abc-01000000-7.err"
    (logs / "raylet.out").write_text("of no interest")
    driver.write_bytes(b"epoch 1\n")
    shipper = Shipper(store, "one", logs, "head-pod")
    assert shipper.ship() == 8
    assert shipper.ship() == 0
    with driver.open("ab") as file:
        file.write(b"epoch 2\n")
    worker.write_bytes(b"warning\n")
    # As after a restart of its container.
    again = Shipper(store, "one", logs, "head-pod")
    assert again.ship() == 16
    sources = ["driver@head-pod", "worker-abc-01000000-7.err@head-pod"]
    assert log_sources(store, "one") == sources
    assert b"".join(read_log(store, "one", sources[0])) == b"epoch 1\nepoch 2\n"
    assert b"".join(read_log(store, "one", sources[0], start=8)) == b"epoch 2\n"
    assert b"".join(read_log(store, "one", sources[1])) == b"warning\n"
    assert log_end(store, "one", sources[0]) == 16


def test_what_is_written_last_is_shipped_too(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "job-driver-x.log"
    ended, shipper = threading.Event(), Shipper(store, "one", tmp_path, "pod")
    thread = threading.Thread(target=ship_until, args=(shipper, ended, print))
    thread.start()
    log.write_bytes(b"killed\n")
    ended.set()
    thread.join(timeout=30)
    assert b"".join(read_log(store, "one", "driver@pod")) == b"killed\n"


def test_a_store_that_fails_is_told_once_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "job-driver-x.log").write_bytes(b"hello\n")
    ended, said = threading.Event(), list[str]()

    class Failing(Shipper):
        tries = 0

        def ship(self) -> int:
            self.tries += 1
            if self.tries == 4:
                ended.set()
            if self.tries < 4:
                raise InputError("no such bucket")
            return super().ship()

    store = Store.open(str(tmp_path / "store"))
    shipper = Failing(store, "one", tmp_path, "pod")
    ship_until(shipper, ended, said.append, every_s=0.01)
    assert said == ["logs are not shipped for now: no such bucket"]
    assert b"".join(read_log(store, "one", "driver@pod")) == b"hello\n"


def test_a_chunk_whose_answer_was_lost_is_not_in_the_way(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "job-driver-x.log"
    log.write_bytes(b"one\n")
    shipper = Shipper(store, "one", tmp_path, "pod")
    assert shipper.ship() == 4
    put_log(store, "one", "driver@pod", 4, b"two\n")  # as a request that timed out
    log.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(InputError):
        shipper.ship()
    assert shipper.ship() == 6
    assert b"".join(read_log(store, "one", "driver@pod")) == b"one\ntwo\nthree\n"


def test_a_chunk_is_never_changed(store: Store) -> None:
    put_log(store, "one", "driver@pod", 0, b"a" * 10)
    put_log(store, "one", "driver@pod", 0, b"a" * 10)
    with pytest.raises(InputError):
        put_log(store, "one", "driver@pod", 0, os.urandom(10))
