"""What a team does on its cluster, by the real chart and the real command."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.e2e.cluster import Cluster
from colours import colour_spec, draw_colours
from graft.spec import dump_job, load_job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_1-imagenet.safetensors"
CHART = ROOT / "helm" / "graft"
GRAFT = Path(sys.executable).with_name("graft")
START_DEADLINE_S = 120


@dataclass(frozen=True)
class Team:
    """A namespace with Graft's chart, and what its people have in the store."""

    cluster: Cluster
    namespace: str
    images: Path
    """A folder of labelled images, imported as `photos`."""
    spec: Path
    """A finetune spec for them."""

    def graft(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run graft in the team's namespace, unless the arguments name one."""
        own = () if "--namespace" in arguments else ("--namespace", self.namespace)
        return self.cluster.graft(*arguments, *own, **environment)

    def submit(self, *arguments: str) -> dict[str, Any]:
        """Submit the spec and wait; return the job's document."""
        done = self.graft("submit", str(self.spec), "--wait", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        print(done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def job(self, job: str) -> dict[str, Any]:
        """Return how a job stands."""
        document: dict[str, Any] = json.loads(self.graft("jobs", "show", job, "--json").stdout)
        return document

    def running(self, job: str, epoch: int) -> None:
        """Wait until a job has finished an epoch."""

        def reached() -> bool:
            found = self.job(job)
            assert found["state"] in ("starting", "running"), found
            done = re.match(r"epoch (\d+)/", found["progress"] or "")
            return bool(done) and int(done[1]) >= epoch

        self.cluster.wait_for(f"epoch {epoch} of {job}", reached, 180)

    def pods(self, job: str, role: str = "") -> list[str]:
        """Return the names of a job's pods."""
        selector = f"graft.dev/job={job}" + (f",ray.io/node-type={role}" if role else "")
        found = self.cluster.find("pods", self.namespace, selector)
        return [pod["metadata"]["name"] for pod in found]

    def kill(self, pod: str) -> None:
        """Delete a pod as if its node had gone."""
        self.cluster.kubectl(
            *("delete", "pod", pod, "-n", self.namespace, "--force", "--grace-period=0")
        )


def values(cluster: Cluster, **changes: Any) -> str:
    """The chart's values for a node of 2 cores."""
    repository, _, tag = cluster.image.rpartition(":")
    small = {"cpu": "100m", "memory": "2Gi", "sharedMemory": "256Mi"}
    document: dict[str, Any] = {
        "image": {
            "repository": repository,
            "tag": tag,
            "pullPolicy": "IfNotPresent",
            "allowed": ["localhost/nowhere:*"],
        },
        "store": {
            "uri": cluster.store,
            "endpoint": cluster.environment["AWS_ENDPOINT_URL"],
            "secret": "graft-s3",
        },
        "classes": {"cpu": small, "gpu-a100": small | {"gpu": "nvidia.com/gpu"}},
        "head": {"cpu": "200m", "memory": "3Gi"},
        "jobs": {
            "sweepConcurrency": 2,
            "startDeadlineSeconds": START_DEADLINE_S,
            "submitter": {"cpu": "50m", "memory": "512Mi"},
        },
    }
    for key, value in changes.items():
        node = document
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return json.dumps(document)


def secret(cluster: Cluster, namespace: str, **changes: str) -> None:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    data = {key: cluster.environment[key] for key in keys if key in cluster.environment} | changes
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "graft-s3", "namespace": namespace},
            "stringData": data,
        }
    )


def install(cluster: Cluster, namespace: str, folder: Path, **changes: Any) -> str:
    """Install or upgrade the chart; return what helm says."""
    file = folder / f"values-{namespace}.json"
    file.write_text(values(cluster, **changes))
    return cluster.helm(
        *("upgrade", "--install", "graft", str(CHART), "-n", namespace, "-f", str(file))
    )


@pytest.fixture(scope="module")
def team(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    real = WEIGHTS.is_file()
    images = SHARED / "ants-bees" if real else draw_colours(folder / "images", 60, 20)
    backbone = {
        "arch": "squeezenet1_1",
        "weights": str(WEIGHTS) if real else "none",
        "freeze": "all" if real else 0,
    }
    spec = colour_spec(
        name="photos",
        dataset={"name": "photos"},
        backbone=backbone,
        preprocess={"resize": 144, "crop": 128},
        train__epochs=3,
        train__batch_size=32,
        scaling={"workers": 2},
        register={"model": "photos", "weights": "best", "alias": "candidate"},
    )
    path = folder / "finetune.yaml"
    path.write_text(dump_job(spec))
    with cluster.namespace("team") as namespace:
        secret(cluster, namespace)
        install(cluster, namespace, folder)
        done = cluster.graft("data", "import", str(images), "--name", "photos")
        assert done.returncode == 0, done.stderr
        yield Team(cluster, namespace, images, path)


def test_chart_is_installed_tested_upgraded_and_uninstalled(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.namespace("chart") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        said = install(cluster, namespace, tmp_path)
        assert "graft submit" in said
        print(cluster.helm("test", "graft", "-n", namespace, "--logs"))
        install(cluster, namespace, tmp_path, jobs__retries=5)
        profile = cluster.find("configmaps", namespace, "graft.dev/profile=true")
        assert "retries: 5" in profile[0]["data"]["profile.yaml"]
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)


def everything(cluster: Cluster, namespace: str) -> set[str]:
    """All objects of a namespace, and the cluster's own roles, by kind and name; no events."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = cluster.kubectl("get", ",".join(kinds), "-n", namespace, "-o", "name").split()
    roles = cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").split()
    return {*found, *(role for role in roles if "graft" in role)}


def test_dry_run_is_accepted_by_the_api_server(team: Team) -> None:
    done = team.graft("submit", str(team.spec), "--id", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    said = team.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=done.stdout)
    assert "rayjob.ray.io/dry created" in said
    assert team.cluster.get("rayjob", "dry", team.namespace) == {}


def test_finetune_gives_the_model_that_a_local_run_gives(team: Team) -> None:
    began = time.monotonic()
    done = team.submit("--id", "first")
    print(f"submit to result: {time.monotonic() - began:.1f} s")
    assert done["state"] == "succeeded"
    assert done["model"].startswith("photos@")
    team.cluster.wait_for("its pods are gone", lambda: not team.pods("first", "head"), 90)
    logs = team.graft("jobs", "logs", "first").stdout
    assert "epoch 3/3" in logs

    local = team.cluster.graft("train", str(team.spec), "--json", RAY_AUTH_MODE="disabled")
    assert local.returncode == 0, local.stderr
    alone = json.loads(local.stdout)
    shown = team.cluster.graft("runs", "show", "first", "--json").stdout
    submitted = json.loads(shown)["result"]
    assert submitted["trunk_digest"] == alone["trunk_digest"]
    ours, theirs = submitted["metrics"]["val"], alone["metrics"]["val"]
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.01)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)

    again = team.graft("submit", str(team.spec), "--id", "first")
    assert again.returncode == 0, again.stderr
    assert "first was submitted before" in again.stderr
    other = team.graft("submit", str(team.spec), "--id", "first", "--set", "train.epochs=9")
    assert other.returncode == 2
    assert "there is a job 'first' with another spec" in other.stderr


LONG = ("--set", "train.epochs=25", "--set", "cache=off", "--set", "register=null")


def follow_to_the_end(team: Team, job: str) -> str:
    done = team.graft("jobs", "wait", job)
    logs = team.graft("jobs", "logs", job).stdout
    assert done.returncode == 0, done.stderr + logs
    return logs


def test_worker_pod_deleted_while_training(team: Team) -> None:
    assert team.graft("submit", str(team.spec), "--id", "worker", *LONG).returncode == 0
    team.running("worker", epoch=2)
    team.kill(team.pods("worker", "worker")[0])
    print(team.graft("jobs", "show", "worker").stdout)
    logs = follow_to_the_end(team, "worker")
    print("\n".join(line for line in logs.splitlines() if re.match(r"(attempt|epoch|job)", line)))
    assert "going on after epoch" in logs


def test_head_pod_deleted_while_training(team: Team) -> None:
    assert team.graft("submit", str(team.spec), "--id", "head", *LONG).returncode == 0
    team.running("head", epoch=2)
    team.kill(team.pods("head", "head")[0])
    logs = follow_to_the_end(team, "head")
    print("\n".join(line for line in logs.splitlines() if re.match(r"(attempt|epoch|job)", line)))
    assert "job head, attempt 2" in logs
    assert "going on after epoch" in logs


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
    done = team.graft("submit", str(path), "--id", "six", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "swept@1"
    shown = json.loads(team.cluster.graft("sweeps", "show", "six", "--json").stdout)
    print(shown["result"]["states"])
    assert sum(shown["result"]["states"].values()) == 6


def test_service_answers_and_follows_a_promotion(team: Team, tmp_path: Path) -> None:
    cluster = team.cluster
    refs = served_versions(cluster)
    while len(refs) < 2:
        team.submit("--set", f"train.seed={len(refs)}")
        refs = served_versions(cluster)
    first, second = refs[:2]
    promoted = cluster.graft("models", "promote", first, "--alias", "champion")
    assert promoted.returncode == 0, promoted.stderr
    began = time.monotonic()
    serving = {"enabled": True, "model": "photos", "replicas": 1, "pollSeconds": 2}
    install(cluster, team.namespace, tmp_path, serving=serving)
    url = "http://" + address(cluster, team.namespace)

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False

    cluster.wait_for("the served model", answers, 240)
    print(f"install to answer: {time.monotonic() - began:.1f} s")
    print(cluster.helm("test", "graft", "-n", team.namespace, "--logs"))
    image = next(team.images.rglob("*.jpg"), None) or noise(tmp_path / "new.jpg")
    asked = cluster.graft("predict", "photos", str(image), "--url", url, "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["images"][0]["model"] == first
    curl = ["curl", "-sS", "--data-binary", f"@{image}", f"{url}/v1/models/photos/predict"]
    assert f'"model":"{first}"' in subprocess.run(curl, capture_output=True, text=True).stdout

    stop, seen = threading.Event(), list[tuple[int, str]]()
    body = image.read_bytes()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/models/photos/predict", content=body)
                    seen.append((answer.status_code, answer.json().get("model", "")))
                except httpx.TransportError as error:
                    seen.append((0, repr(error)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(3)
        assert cluster.graft("models", "promote", second, "--alias", "champion").returncode == 0
        cluster.wait_for("the new version", lambda: seen and seen[-1][1] == second, 60)
        time.sleep(3)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    failed = [one for one in seen if one[0] != 200]
    print(f"{len(seen)} requests during the promotion, {len(failed)} failed")
    assert failed == []
    assert {model for _, model in seen} == {first, second}

    head = f"http://graft-head-svc.{team.namespace}.svc.cluster.local:8265"
    assert httpx.get(f"{head}/api/version", timeout=10).status_code in (401, 403)
    install(cluster, team.namespace, tmp_path)


def served_versions(cluster: Cluster) -> list[str]:
    versions = json.loads(cluster.graft("models", "ls", "--json").stdout)["models"]
    return [one["model"] for one in versions if one["name"] == "photos"]


def address(cluster: Cluster, namespace: str) -> str:
    """Where the chart's NOTES say that the served model answers."""

    def found() -> str:
        services = cluster.find("services", namespace)
        names = [one["metadata"]["name"] for one in services]
        return next((name for name in names if name.endswith("-serve-svc")), "")

    return f"{cluster.wait_for('the Service', found, 180)}.{namespace}.svc.cluster.local:8000"


def noise(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def refused(team: Team, *arguments: str) -> str:
    """Submit what cannot run; print how long the message took."""
    began = time.monotonic()
    done = team.graft("submit", str(team.spec), *arguments)
    print(f"{time.monotonic() - began:.1f} s, exit {done.returncode}: {done.stderr.strip()}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_cannot_run_is_refused_at_once(team: Team, tmp_path: Path) -> None:
    gpus = ("--set", "scaling.workers=8", "--set", "scaling.gpus_per_worker=1")
    assert "no nvidia.com/gpu" in refused(team, "--class", "gpu-a100", *gpus)
    assert "resource class 'cpu' has no GPUs" in refused(team, *gpus)
    assert "unknown resource class 'gpu-a10'" in refused(team, "--class", "gpu-a10")
    assert "unknown key 'train.epoch'" in refused(team, "--set", "train.epoch=1")
    assert "no dataset 'photo'" in refused(team, "--set", "dataset.name=photo")
    assert "is not allowed here" in refused(team, "--image", "other:1")
    assert "no Graft in namespace default" in refused(team, "--namespace", "default")
    assert "no namespace 'nowhere'" in refused(team, "--namespace", "nowhere")


def test_image_that_cannot_be_pulled(team: Team, tmp_path: Path) -> None:
    with team.cluster.namespace("pull") as namespace:
        secret(team.cluster, namespace)
        hasty = {"jobs__retries": 0, "jobs__startDeadlineSeconds": 20}
        install(team.cluster, namespace, tmp_path, **hasty)
        began = time.monotonic()
        done = team.cluster.graft(
            *("submit", str(team.spec), "--id", "pull", "--image", "localhost/nowhere:1"),
            *("--wait", "--namespace", namespace),
        )
        print(f"{time.monotonic() - began:.1f} s: {done.stderr.strip()}")
        assert done.returncode == 1
        assert "ImagePull" in done.stderr
        assert "start deadline" in done.stderr


def test_wrong_credentials_of_the_store(team: Team, tmp_path: Path) -> None:
    with team.cluster.namespace("wrong") as namespace:
        secret(team.cluster, namespace, AWS_SECRET_ACCESS_KEY="wrong-secret")
        install(team.cluster, namespace, tmp_path, jobs__retries=0)
        began = time.monotonic()
        done = team.cluster.graft(
            "submit", str(team.spec), "--id", "wrong", "--wait", "--namespace", namespace
        )
        print(f"{time.monotonic() - began:.1f} s: {done.stderr.strip()}")
        assert done.returncode == 1
        assert "SignatureDoesNotMatch" in done.stdout + done.stderr


def test_cancel_while_training(team: Team) -> None:
    assert team.graft("submit", str(team.spec), "--id", "cancelled", *LONG).returncode == 0
    team.running("cancelled", epoch=1)
    began = time.monotonic()
    assert team.graft("jobs", "cancel", "cancelled").returncode == 0
    team.cluster.wait_for("no pods", lambda: not team.pods("cancelled"), 30)
    print(f"pods gone after {time.monotonic() - began:.1f} s")
    assert team.job("cancelled")["state"] == "cancelled"
    waited = team.graft("jobs", "wait", "cancelled")
    assert waited.returncode == 1
    shown = team.cluster.graft("runs", "show", "cancelled", "--json")
    assert json.loads(shown.stdout)["state"] == "unfinished"
    resumed = team.cluster.graft("runs", "resume", "cancelled", RAY_AUTH_MODE="disabled")
    assert resumed.returncode == 0, resumed.stderr  # nothing half-written is in the way


def test_job_that_would_fail_again_gets_no_other_cluster(team: Team) -> None:
    mistake = ("--set", "backbone.freeze=17")
    began = time.monotonic()
    done = team.graft("submit", str(team.spec), "--id", "mistake", *mistake, "--wait")
    print(f"{time.monotonic() - began:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 1
    assert "mistake failed: backbone.freeze" in done.stderr

    def ended() -> bool:
        status = team.cluster.get("rayjob", "mistake", team.namespace)["status"]
        assert status["jobDeploymentStatus"] in ("Running", "Complete"), status
        return bool(status["jobDeploymentStatus"] == "Complete")

    team.cluster.wait_for("the end of its cluster", ended, 60)
