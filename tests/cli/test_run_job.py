"""`graft run-job`, what the head of a submitted job's cluster runs: the real command, on a Ray
that runs already, as there."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

import commands
from colours import colour_spec, draw_colours, new_run
from graft.cli.mover import mover_of
from graft.cluster.job_attempts import reopen_job
from graft.cluster.job_records import Owner, read_job, read_job_spec, submit_job
from graft.data.importing import import_dataset
from graft.registry import alias_history, get_model
from graft.spec import Finetune, dump_job
from graft.store import Store
from graft.training.attempt_pointer import read_pointer
from graft.training.run_records import read_result, run_folder

pytestmark = pytest.mark.slow  # each runs a job


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(draw_colours(tmp_path / "images")), "colours", test_fraction=0)
    return store


def run_job(
    store: Store, job: str, spec: Finetune, ray: str = "", **environment: str
) -> commands.Done:
    """Run the command as a pod does: all it has to know is in its environment."""
    environment |= {"GRAFT_STORE": store.uri, "GRAFT_JOB": job, "GRAFT_SPEC": dump_job(spec)}
    return commands.graft("run-job", env=environment | {"RAY_ADDRESS": ray})


@pytest.mark.slow
def test_a_job_is_a_run_of_its_name_once(store: Store, ray_cluster_address: str) -> None:
    spec = colour_spec(train__epochs=1, register={"model": "m", "alias": "candidate"})
    alice = Owner("alice@example.org", self_declared=False)
    done = run_job(store, "one", spec, ray_cluster_address, **alice.environment)
    assert done.returncode == 0, done.stderr
    assert "job one, attempt 1" in done.stdout
    record, result = read_job(store, "one"), read_result(store, "one")
    assert record is not None
    assert result is not None
    assert (record.state, record.model) == ("succeeded", result.model)
    assert get_model(store, record.model or "").lineage.run == "one"
    assert read_job_spec(store, "one") == dump_job(spec)
    ((_, move),) = alias_history(store, "m")
    assert (move.who, move.self_declared) == ("alice@example.org", False)
    assert move.command == "graft submit, job one"

    again = run_job(store, "one", spec, ray_cluster_address)
    assert (again.returncode, again.stdout) == (0, "job one has succeeded already\n")


@pytest.mark.slow
def test_a_job_that_fails_says_so_in_the_store(store: Store, ray_cluster_address: str) -> None:
    done = run_job(store, "two", colour_spec(dataset={"name": "colors"}), ray_cluster_address)
    assert done.returncode == 2
    record = read_job(store, "two")
    assert record is not None
    assert (record.state, record.attempt, record.final) == ("failed", 1, True)
    assert record.error is not None
    assert record.error.startswith("no dataset 'colors' in ")
    assert record.error in done.stderr


def test_a_job_of_that_name_with_another_spec_is_left_alone(store: Store) -> None:
    submit_job(store, "three", dump_job(colour_spec(train__epochs=2)))
    done = run_job(store, "three", colour_spec(train__epochs=3))
    assert done.returncode == 2
    assert "there is a job 'three' with another spec; choose another id" in done.stderr
    assert read_job(store, "three") is None


@pytest.mark.slow
def test_a_run_that_the_job_did_not_make_is_left_alone(
    store: Store, ray_cluster_address: str
) -> None:
    run = new_run(store, colour_spec(train__epochs=2))
    for _ in range(2):
        done = run_job(store, run, colour_spec(train__epochs=1), ray_cluster_address)
        assert done.returncode == 2
        assert f"there is a run '{run}' that this job did not make" in done.stderr
        failed, now = read_job(store, run), datetime.now(UTC)
        assert failed
        reopen_job(store, failed, failed, now, "ada", {})  # which makes it no more the job's
    assert read_pointer(store, run_folder(run)) is None


@pytest.mark.slow
def test_what_a_restart_would_only_meet_again_ends_the_job(
    store: Store, ray_cluster_address: str
) -> None:
    diverges = colour_spec(train__epochs=1, train__optimizer={"kind": "sgd", "lr": 1e20})
    done = run_job(store, "four", diverges, ray_cluster_address)
    assert done.returncode == 1
    record = read_job(store, "four")
    assert record is not None
    assert (record.state, record.final) == ("failed", True)
    assert "not finite" in (record.error or "")
    again = run_job(store, "four", diverges, ray_cluster_address)
    assert again.returncode == 2
    assert "four has failed for good" in again.stderr


@pytest.mark.slow
def test_an_attempt_whose_workers_do_not_come_fails_and_another_may_follow(
    store: Store, ray_cluster_address: str
) -> None:
    lacks = {"GRAFT_CPUS": "1000", "GRAFT_START_DEADLINE": "0.1"}
    done = run_job(store, "five", colour_spec(), ray_cluster_address, **lacks)
    assert done.returncode != 0
    record = read_job(store, "five")
    assert record is not None
    assert (record.state, record.final) == ("failed", False)
    assert "of 1000 CPUs" in (record.error or "")
    assert "within 0.1 s (jobs.startDeadlineSeconds)" in (record.error or "")


@pytest.mark.parametrize("self_declared", [False, True])
def test_aliases_move_in_the_name_of_a_jobs_owner(self_declared: bool) -> None:
    mover = mover_of("graft submit, job one", Owner("bob@laptop", self_declared))
    assert (mover.who, mover.self_declared) == ("bob@laptop", self_declared)
    assert mover.command == "graft submit, job one"
