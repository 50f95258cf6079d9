"""Attempts at sweeps and reports: one at a time, and only the newest publishes."""

import contextlib
import json
import socket
from pathlib import Path

import pytest

from graft.activations.lease import LeaseTerms
from graft.errors import InputError, RunFailed
from graft.store import Store, document_bytes
from graft.training.attempt_pointer import claim_attempt, hold_attempt, read_pointer
from graft.training.run_records import publish_result, read_result
from histories.workloads import result_of

FOLDER = "sweeps/colours"
QUICK = LeaseTerms(expiry_s=0.6)


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_a_second_attempt_at_what_is_at_work_is_refused_by_host_and_time(store: Store) -> None:
    said: list[str] = []
    with (
        hold_attempt(store, FOLDER, said.append, terms=QUICK) as fence,
        pytest.raises(InputError) as refused,
        hold_attempt(store, FOLDER, said.append, terms=QUICK),
    ):
        pytest.fail("two are at work")
    fence()
    assert "colours is at work already: process " in str(refused.value)
    assert f" on {socket.gethostname()}, since 20" in str(refused.value)
    (line,) = said
    assert line.endswith("had colours; waiting up to 0.6 s to see whether it has died")


def test_who_died_is_taken_over_and_can_publish_nothing(store: Store) -> None:
    with hold_attempt(store, FOLDER, print, terms=QUICK) as fence:
        key = f"{FOLDER}/lease.json"
        lease = json.loads(store.read(key).data)
        # From now on it does not beat: the lease is another's, who does not either.
        store.write(key, json.dumps({**lease, "owner": "dead"}).encode())
        with hold_attempt(store, FOLDER, print, terms=QUICK) as newer:
            newer()
            with pytest.raises(RunFailed, match="colours: attempt 1 was overtaken by attempt 2"):
                fence()
    pointer = read_pointer(store, FOLDER)
    assert pointer is not None
    assert pointer.attempt == 2


@pytest.mark.parametrize("lease", [b"", b"[]", b'{"owner": "x", "host": "\\u001b[2J"}'])
def test_a_lease_that_cannot_be_read_expires(directory: Store, lease: bytes) -> None:
    directory.write(f"{FOLDER}/lease.json", lease)
    said: list[str] = []
    with hold_attempt(directory, FOLDER, said.append, terms=LeaseTerms(expiry_s=0.1)) as fence:
        directory.write(f"{FOLDER}/lease.json", lease)  # nor does it end who has taken it over
        fence()
    (line,) = said
    assert line.startswith("a process whose lease cannot be read had colours; waiting up to 0.1 s")


def test_a_job_takes_over_at_once(store: Store) -> None:
    with hold_attempt(store, FOLDER, print) as fence:
        with hold_attempt(store, FOLDER, pytest.fail, take_over=True) as newer:
            newer()
        with pytest.raises(RunFailed, match="overtaken"):
            fence()


def test_what_was_stopped_is_gone_on_with_at_once(store: Store) -> None:
    with contextlib.suppress(KeyboardInterrupt), hold_attempt(store, FOLDER, print):
        raise KeyboardInterrupt
    with hold_attempt(store, FOLDER, pytest.fail) as fence:
        fence()


def test_a_result_that_came_late_is_the_runs(directory: Store) -> None:
    """Its attempt was paused after it had looked at its fence, and before it wrote."""
    older, newer = (claim_attempt(directory, "runs/run") for _ in range(2))
    late = result_of("run", older.attempt, "older")
    directory.create("runs/run/result.json", document_bytes(late))
    assert publish_result(directory, newer, result_of("run", newer.attempt, "newer")) == late
    with pytest.raises(RunFailed, match="overtaken"):
        publish_result(directory, older, late)
    assert read_result(directory, "run") == late
