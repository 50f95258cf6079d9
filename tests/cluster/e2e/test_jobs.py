"""What a data scientist does: submit, follow, lose pods, cancel."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.e2e.team import ROOT, Team, person
from colours import transfer_document
from graft.data.importing import import_dataset
from graft.spec import Scaling, load_job
from graft.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LONG = ("--set", "train.epochs=15", "--set", "cache=off", "--set", "register=null")


def test_finetune_gives_the_model_that_a_local_run_gives(team: Team) -> None:
    job = team.new_id("first")
    began = time.monotonic()
    done = team.submit("--id", job)
    print(f"submit to result: {time.monotonic() - began:.1f} s")
    assert done["state"] == "succeeded"
    assert done["model"].startswith("photos@")
    team.cluster.wait_for("its pods are gone", lambda: not team.pods(job, "head"), 90)
    logs = team.graft("jobs", "logs", job).stdout
    assert "epoch 3/3" in logs

    local = team.cluster.graft("train", str(team.spec), "--json")
    assert local.returncode == 0, local.stderr
    alone = json.loads(local.stdout)
    shown = team.cluster.graft("runs", "show", job, "--json").stdout
    submitted = json.loads(shown)["result"]
    assert submitted["trunk_digest"] == alone["trunk_digest"]
    ours, theirs = submitted["metrics"]["val"], alone["metrics"]["val"]
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.01)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)

    again = team.graft("submit", str(team.spec), "--id", job)
    assert again.returncode == 0, again.stderr
    assert f"{job} was submitted before" in again.stderr
    other = team.graft("submit", str(team.spec), "--id", job, "--set", "train.epochs=9")
    assert other.returncode == 2
    assert f"there is a job '{job}' with another spec" in other.stderr


def test_evaluation_of_a_model(team: Team) -> None:
    spec = str(ROOT / "jobs" / "evaluation.yaml")
    model = newest(team)
    settings = ("--set", f"model={model}", "--set", "split=val")
    done = team.graft("submit", spec, "--id", team.new_id("evaluated"), *settings, "--wait")
    assert done.returncode == 0, done.stderr + done.stdout
    listed = json.loads(team.cluster.graft("report", "ls", "--json").stdout)["reports"]
    (report,) = {one["report"] for one in listed if one["kind"] == "evaluation"}
    shown = team.cluster.graft("report", "show", report, "--json")
    accuracy = json.loads(shown.stdout)["accuracy"]
    found = json.loads(team.cluster.graft("models", "show", model, "--json").stdout)
    assert accuracy == pytest.approx(found["metrics"]["val"]["accuracy"], abs=0.01)


def test_prediction_of_which_a_worker_is_killed(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image once, whatever dies: the same few images, thousands of times."""
    for name, value in team.cluster.environment.items():
        monkeypatch.setenv(name, value)
    model, store = newest(team), Store.open(team.cluster.store)
    archive = Store.open(f"{team.cluster.store}-archive")
    images = sorted(path for path in team.images.rglob("*") if path.is_file())[:20]
    for number, path in enumerate(images):
        archive.write(f"{number}{path.suffix}", path.read_bytes())
    names = [f"{number}{path.suffix}" for number, path in enumerate(images)]
    lines = (names[i % len(names)] for i in range(6000))
    archive.write("list.txt", "\n".join(lines).encode())
    job = team.new_id("archive")
    settings = (f"model={model}", f"source={archive.uri}/list.txt", "part_images=50", "workers=2")
    words = [word for setting in settings for word in ("--set", setting)]
    spec = str(ROOT / "jobs" / "prediction.yaml")
    done = team.graft("submit", spec, "--id", job, *words)
    assert done.returncode == 0, done.stderr

    def parts() -> int:
        return sum(key.endswith(".json") for key, _ in store.scan(f"predictions/{job}/part-"))

    team.cluster.wait_for("some parts", lambda: parts() > 5, 300)
    so_far = parts()
    team.kill(team.pods(job, "worker")[0])
    print(f"killed a worker after {so_far} of 120 parts: {team.job(job)['progress']}")
    assert so_far < 120
    follow_to_the_end(team, job)
    shown = json.loads(team.cluster.graft("predictions", "show", job, "--json").stdout)
    assert (shown["images"], shown["unusable"], len(shown["parts"])) == (6000, 0, 120)
    assert team.job(job)["attempt"] == 1


def test_import_of_which_a_worker_is_killed(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version of the local import, whatever dies."""
    for name, value in team.cluster.environment.items():
        monkeypatch.setenv(name, value)
    store, photos = Store.open(team.cluster.store), Store.open(f"{team.cluster.store}-photos")
    images = sorted(path for path in team.images.rglob("*") if path.is_file())[:40]
    for number in range(2000):  # what differs lies after the image's end, which decoders pass by
        path = images[number % len(images)]
        data = path.read_bytes() + number.to_bytes(4)
        photos.write(f"{number % 2}/{number}{path.suffix}", data)
    job, name = team.new_id("import"), team.new_id("photos")
    settings = (f"name={name}", f"source={photos.uri}", "part_files=20", "workers=2")
    words = [word for setting in settings for word in ("--set", setting)]
    done = team.graft("submit", str(ROOT / "jobs" / "import.yaml"), "--id", job, *words)
    assert done.returncode == 0, done.stderr

    def parts() -> int:
        return sum(key.endswith(".json") for key, _ in store.scan(f"imports/{job}/part-"))

    team.cluster.wait_for("some parts", lambda: parts() > 5, 300)
    so_far = parts()
    team.kill(team.pods(job, "worker")[0])
    print(f"killed a worker after {so_far} of 100 parts: {team.job(job)['progress']}")
    follow_to_the_end(team, job)
    assert team.job(job)["attempt"] == 1
    shown = json.loads(team.cluster.graft("data", "show", name, "--json").stdout)
    local = import_dataset(store, photos.uri, name)
    assert (shown["version"], local.written) == (local.manifest.version, False)


def newest(team: Team) -> str:
    """Return the model that the team has, which it trains if need be."""
    shown = team.cluster.graft("models", "show", "photos", "--json")
    if shown.returncode:
        return str(team.submit()["model"])
    return str(json.loads(shown.stdout)["model"])


def follow_to_the_end(team: Team, job: str) -> str:
    done = team.graft("jobs", "wait", job)
    logs = team.graft("jobs", "logs", job).stdout
    assert done.returncode == 0, done.stderr + logs
    return logs


def test_worker_pod_deleted_while_training(team: Team) -> None:
    job = team.new_id("worker")
    assert team.graft("submit", str(team.spec), "--id", job, *LONG).returncode == 0
    team.running(job, epoch=2)
    team.kill(team.pods(job, "worker")[0])
    print(team.graft("jobs", "show", job).stdout)
    logs = follow_to_the_end(team, job)
    print("\n".join(line for line in logs.splitlines() if re.match(r"(attempt|epoch|job)", line)))
    assert "going on after epoch" in logs


def goes_on(team: Team, job: str) -> None:
    """Wait until a job says that it goes on after what it had; then cancel it."""
    said = team.graft
    team.cluster.wait_for(
        "it goes on", lambda: "going on after epoch" in said("jobs", "logs", job).stdout, 180
    )
    found = team.job(job)
    print(found["progress"])
    assert found["state"] == "running", found
    assert team.graft("jobs", "cancel", job).returncode == 0


def test_preempted_worker_pod_is_not_counted(team: Team) -> None:
    """As where its node is drained: with no restart to spare, the job goes on all the same."""
    job = team.new_id("preempted")
    # So many epochs that the 30 s of a drain do not reach the last one.
    none = ("--set", "scaling.max_restarts=0", "--set", "train.epochs=1000")
    assert team.graft("submit", str(team.spec), "--id", job, *LONG, *none).returncode == 0
    team.running(job, epoch=2)
    team.evict(team.pods(job, "worker")[0])
    goes_on(team, job)
    ended = team.job(job)
    assert (ended["attempt"], ended["losses"]) == (1, 0)


def test_head_pod_evicted_while_training(team: Team) -> None:
    job = team.new_id("head")
    # Its workers train on until KubeRay ends them: not to the end, or nothing is left to resume.
    longer = (*LONG, "--set", "train.epochs=60")
    assert team.graft("submit", str(team.spec), "--id", job, *longer).returncode == 0
    team.running(job, epoch=2)
    team.evict(team.pods(job, "head")[0])
    logs = follow_to_the_end(team, job)
    print("\n".join(line for line in logs.splitlines() if re.match(r"(attempt|epoch|job)", line)))
    assert f"job {job}, attempt 2" in logs
    assert "going on after epoch" in logs
    ended = team.job(job)
    assert (ended["losses"], ended["preemptions"]) == (0, 1)  # it was told to end


def test_node_of_a_head_is_lost(team: Team) -> None:
    """No packet of its pod arrives any more, Kubernetes gives the pod up, and a person deletes it.

    What `jobs show` says until then: test_statuses.py.
    """
    job = team.new_id("unreachable")
    # Its workers train on while their head is silent.
    longer = (*LONG, "--set", "train.epochs=1000")
    assert team.graft("submit", str(team.spec), "--id", job, *longer).returncode == 0
    team.running(job, epoch=2)
    (head,) = team.pods(job, "head")
    taints = team.tolerates(head)
    assert taints["node.kubernetes.io/unreachable"] == taints["node.kubernetes.io/not-ready"] == 30
    team.cut_off(head)
    time.sleep(30)  # so long the pod tolerates it; KubeRay makes no other while its object is there
    team.kill(head)
    began = time.monotonic()
    goes_on(team, job)
    print(f"given up to going on: {time.monotonic() - began:.1f} s")


def test_head_that_is_killed_each_time(team: Team) -> None:
    """As one that has too little memory: its container starts again, and nothing is told before."""
    job = team.new_id("killed")
    longer = (*LONG, "--set", "train.epochs=500", "--set", "scaling.workers=1")
    assert team.graft("submit", str(team.spec), "--id", job, *longer).returncode == 0
    for attempt in (1, 2):
        team.running(job, epoch=1 if attempt == 1 else 2, attempt=attempt)
        (head,) = team.pods(job, "head")
        words = ("exec", head, "-n", team.namespace, "-c", "head", "--", "sh", "-c", "kill -9 -1")
        with contextlib.suppress(AssertionError):  # the shell has killed itself, too
            team.cluster.kubectl(*words)
    waited = team.graft("jobs", "wait", job)
    assert waited.returncode == 1
    ended = team.job(job)
    print(ended["why"])
    assert ended["state"] == "failed"
    assert "given up after 2 attempts that failed or died (jobs.retries is 1)" in ended["why"]
    resumed = team.graft("jobs", "resume", job)
    assert resumed.returncode == 0, resumed.stderr
    team.running(job, epoch=3, attempt=3)
    assert team.graft("jobs", "cancel", job).returncode == 0
    assert team.graft("jobs", "prune", "--older", "1d").stdout.strip() == "no job ended so long ago"


def test_sweep_of_six_trials(team: Team, tmp_path: Path) -> None:
    base = load_job(team.spec).model_dump(mode="json", by_alias=True)
    base["scaling"]["workers"] = 1
    base["register"] = None
    sweep = {
        "kind": "sweep",
        "name": "six",
        "base": base,
        "space": {
            "train.optimizer.lr": {"choice": [1e-3, 3e-3, 1e-2]},
            "backbone.freeze": {"choice": ["all", -1]},
        },
        "search": {"kind": "grid"},
        "register": {"model": "swept"},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(sweep))
    job = team.new_id("six")
    done = team.graft("submit", str(path), "--id", job, "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].startswith("swept@")
    shown = json.loads(team.cluster.graft("sweeps", "show", job, "--json").stdout)
    states = shown["result"]["states"]
    print(states)
    assert states.keys() <= {"finished", "stopped"}  # none failed or diverged
    assert sum(states.values()) == 6


def test_cancel_while_training(team: Team) -> None:
    job = team.new_id("cancelled")
    assert team.graft("submit", str(team.spec), "--id", job, *LONG).returncode == 0
    team.running(job, epoch=1)
    began = time.monotonic()
    assert team.graft("jobs", "cancel", job).returncode == 0
    team.cluster.wait_for("no pods", lambda: not team.pods(job), 60)
    print(f"pods gone after {time.monotonic() - began:.1f} s")
    assert team.job(job)["state"] == "cancelled"
    waited = team.graft("jobs", "wait", job)
    assert waited.returncode == 1
    shown = team.cluster.graft("runs", "show", job, "--json")
    assert json.loads(shown.stdout)["state"] == "unfinished"
    # With epochs fewer than LONG's there is nothing left to train after the one of then.
    resumed = team.graft("jobs", "resume", job, "--set", "jobs.retries=0", "--wait")
    assert resumed.returncode == 0, resumed.stderr  # nothing half-written is in the way
    assert "going on after epoch" in resumed.stdout
    assert team.job(job)["state"] == "succeeded"
    print(team.graft("jobs", "prune", "--older", "1s").stdout)
    team.cluster.wait_for(
        "nothing left", lambda: not team.objects(job)
    )  # neither the first RayJob, nor the second, nor a Service
    assert team.job(job)["state"] == "succeeded"  # what the store knows stays


def test_job_that_would_fail_again_gets_no_other_cluster(team: Team) -> None:
    job = team.new_id("mistake")
    mistake = ("--set", "backbone.freeze=17", "--set", "scaling.workers=1")
    began = time.monotonic()
    done = team.graft("submit", str(team.spec), "--id", job, *mistake, "--wait")
    print(f"{time.monotonic() - began:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 1
    assert f"{job} failed: backbone.freeze" in done.stderr

    def ended() -> bool:
        status = team.cluster.get("rayjob", job, team.namespace)["status"]
        assert status["jobDeploymentStatus"] in ("Running", "Complete"), status
        return bool(status["jobDeploymentStatus"] == "Complete")

    team.cluster.wait_for("the end of its cluster", ended, 60)


def test_demo_job(team: Team) -> None:
    spec = str(ROOT / "jobs" / "demo.yaml")
    done = team.graft("submit", spec, "--id", team.new_id("demo"), "--wait")
    assert done.returncode == 0, done.stderr + done.stdout
    print(done.stdout)


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Keep a port of this machine from all but `way_to`: nothing listens there but that."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def way_to(api: str, port: int) -> Iterator[None]:
    """Lead a port of this machine, which is held, to the API server while the block lasts."""
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseport,fork"
    address = api.removeprefix("https://")
    with subprocess.Popen(["socat", listen, f"TCP:{address}"], start_new_session=True) as socat:
        try:
            yield
        finally:
            os.killpg(socat.pid, signal.SIGKILL)  # and with it the connections that it has


def test_cluster_lost_while_following(team: Team, tmp_path: Path) -> None:
    cluster, job, began = team.cluster, team.new_id("lost"), time.monotonic()
    long = ("--set", "train.epochs=500", "--set", "scaling.workers=1")
    assert team.graft("submit", str(team.spec), "--id", job, *LONG, *long).returncode == 0

    def follower(port: int) -> "subprocess.Popen[str]":
        server = f"https://127.0.0.1:{port}"
        config = person(cluster, team.namespace, "ada", tmp_path, server)
        return cluster.start("jobs", "logs", job, "-f", KUBECONFIG=config)

    with held_port() as first, held_port() as second:
        with way_to(cluster.api, first), way_to(cluster.api, second):
            for_a_while, for_good = follower(first), follower(second)
            team.running(job, epoch=2)
        time.sleep(10)
        with way_to(cluster.api, first):
            _, told = for_good.communicate(timeout=120)
            print(f"{time.monotonic() - began:.1f} s: {told.strip()}")
            assert for_good.returncode == 75
            assert f"the job may well go on: look later with graft jobs show {job}" in told
            reached = int(re.findall(r"epoch (\d+)/", team.job(job)["progress"])[0])
            assert team.graft("jobs", "cancel", job).returncode == 0
            said, told = for_a_while.communicate(timeout=120)
    assert for_a_while.returncode == 0, told
    epochs = [int(number) for number in re.findall(r"^epoch (\d+)/", said, re.MULTILINE)]
    assert epochs == list(range(1, epochs[-1] + 1))  # none is missing, none is told twice
    assert epochs[-1] >= reached


def test_transfer_report(team: Team, tmp_path: Path) -> None:
    base = load_job(team.spec).model_copy(update={"scaling": Scaling(workers=1)})
    document = transfer_document(base, epochs=1, labels=[1.0], seeds=1)
    path = tmp_path / "transfer.yaml"
    path.write_text(json.dumps(document))
    job = team.new_id("transfer")
    done = team.graft("submit", str(path), "--id", job, "--wait")
    assert done.returncode == 0, done.stderr + done.stdout
    shown = team.cluster.graft("report", "show", job, "--json", "--out", str(tmp_path / "out"))
    (found,) = json.loads(shown.stdout)["backbones"]
    print({point["arm"]: point["accuracy"]["value"] for point in found["points"]})
    assert {point["arm"] for point in found["points"]} == {"scratch", "features", "partial", "full"}
    assert (tmp_path / "out" / "report.html").is_file()
