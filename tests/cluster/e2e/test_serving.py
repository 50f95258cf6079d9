"""A served model under steady requests: promotions, and pods that come and go."""

import json
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.e2e.asking import an_image, asked_steadily, served
from cluster.e2e.cluster import Cluster
from cluster.e2e.team import Team, install

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


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
    serving["engine"] = "torch"  # a race would take the time of this scenario
    keys = Keys(team, tmp_path / "keys.json")
    shop, other = keys.new("shop"), keys.new("other")
    serving["keysSecret"] = keys.apply()
    install(cluster, team.namespace, tmp_path, serving=serving)
    url = served(cluster, team.namespace)
    print(f"install to answer: {time.monotonic() - began:.1f} s")
    print(cluster.helm("test", "graft", "-n", team.namespace))
    image = an_image(team, tmp_path)
    words = ("predict", "photos", str(image), "--url", url, "--json")
    refused = cluster.graft(*words)
    assert (refused.returncode, "a key is needed" in refused.stderr) == (2, True)
    asked = cluster.graft(*words, GRAFT_API_KEY=shop)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["images"][0]["model"] == first
    curl = ["curl", "-sS", "-H", f"X-API-Key: {shop}", "--data-binary", f"@{image}"]
    said = subprocess.run([*curl, f"{url}/v1/models/photos/predict"], capture_output=True)
    assert f'"model":"{first}"'.encode() in said.stdout

    (pod,) = cluster.find("pods", team.namespace, "graft.dev/role=serving,ray.io/node-type=worker")
    python = ("python", "-c", "import onnxruntime, onnxscript")  # what `auto` lets race
    cluster.kubectl("exec", pod["metadata"]["name"], "-n", team.namespace, "--", *python)
    words_of_pod = ("logs", pod["metadata"]["name"], "-n", team.namespace)
    cluster.wait_for(
        "the access log at the container's stdout",
        lambda: '"key":"shop"' in cluster.kubectl(*words_of_pod),
        30,
    )

    with asked_steadily(url, "photos", image.read_bytes(), shop) as seen:
        cluster.wait_for("answers of the old version", lambda: len(seen) > 20, 60)
        assert cluster.graft("models", "promote", second, "--alias", "champion").returncode == 0
        cluster.wait_for("the new version", lambda: seen and seen[-1][1] == second, 60)
        so_far = len(seen)
        cluster.wait_for("more of its answers", lambda: len(seen) > so_far + 20, 60)
        revoked_at = time.monotonic()
        keys.revoke("other")
        keys.apply()
        keys.bring()
        cluster.wait_for("no answer to a revoked key", lambda: not asks(url, other), 60)
        print(f"revoked {time.monotonic() - revoked_at:.1f} s after the command began")
    failed = [one for one in seen if one[0] != 200]
    print(f"{len(seen)} requests during the promotion, {len(failed)} failed")
    assert failed == []
    assert {model for _, model in seen} == {first, second}

    head = f"http://graft-head-svc.{team.namespace}.svc.cluster.local:8265"
    assert httpx.get(f"{head}/api/version", timeout=10).status_code in (401, 403)
    install(cluster, team.namespace, tmp_path)


def test_two_models_in_one_release(team: Team, tmp_path: Path) -> None:
    cluster = team.cluster
    champions = {model: team.champion(model) for model in ("photos", "others")}
    models = [{"name": "photos", "route": "/"}, {"name": "others"}]
    serving = {"enabled": True, "noAuth": True, "models": models, "replicas": 1, "pollSeconds": 2}
    serving["engine"] = "torch"
    install(cluster, team.namespace, tmp_path, serving=serving)
    url = served(cluster, team.namespace)
    body = an_image(team, tmp_path).read_bytes()
    for model, champion in champions.items():
        route = "" if model == "photos" else f"/{model}"
        path = f"{url}{route}/v1/models/{model}/predict"

        def answer(path: str = path) -> str:
            try:
                asked = httpx.post(path, content=body, timeout=5)
            except httpx.TransportError:
                return ""
            return str(asked.json()["model"]) if asked.is_success else ""

        assert cluster.wait_for(f"an answer of {model}", answer, 240) == champion
    (service,) = cluster.find("rayservices", team.namespace)
    assert set(service["status"]["activeServiceStatus"]["applicationStatuses"]) == set(champions)
    install(cluster, team.namespace, tmp_path)


@dataclass(frozen=True)
class Steps:
    """Changes of what serves, under load: each is over when so many pods serve, and no other."""

    team: Team
    seen: list[tuple[int, str]]

    def pods(self) -> dict[str, bool]:
        """Names of the pods that answer, or are to end, and whether they are."""
        selector = "graft.dev/role=serving,ray.io/node-type=worker"
        found = self.team.cluster.find("pods", self.team.namespace, selector)
        return {
            pod["metadata"]["name"]: "deletionTimestamp" in pod["metadata"]
            for pod in found
            if ready(pod) or "deletionTimestamp" in pod["metadata"]
        }

    def done(self, what: str, count: int, gone: Collection[str] = ()) -> list[str]:
        """Wait until a step is over, and these pods are no more; return the names of the others."""
        began = time.monotonic()

        def reached() -> bool:
            self.check()
            pods = self.pods()
            return len(pods) == count and not pods.keys() & set(gone) and not any(pods.values())

        self.team.cluster.wait_for(what, reached, 480)
        so_far = len(self.seen)
        self.team.cluster.wait_for("more answers", lambda: len(self.seen) > so_far + 100, 60)
        print(f"{what}: {time.monotonic() - began:.0f} s, {len(self.seen)} answers so far")
        return list(self.pods())

    def check(self) -> None:
        failed = [one for one in self.seen if one[0] != 200]
        assert failed == [], f"of {len(self.seen)}: {failed}"


def test_serving_pods_are_deleted_and_evicted_under_load(team: Team, tmp_path: Path) -> None:
    serve(team, tmp_path, model="photos", replicas=2)
    cluster, image = team.cluster, an_image(team, tmp_path).read_bytes()
    url = served(cluster, team.namespace)
    with asked_steadily(url, "photos", image, anew=2, pause_s=0.2) as seen:
        steps = Steps(team, seen)
        first, *_ = steps.done("two pods", 2)
        team.evict(first)
        second, *_ = steps.done("another one for the one that was deleted", 2, gone=[first])
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": second, "namespace": team.namespace},
        }
        path = f"/api/v1/namespaces/{team.namespace}/pods/{second}/eviction"
        cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
        steps.done("another one for the one that was evicted", 2, gone=[second])
    steps.check()
    install(cluster, team.namespace, tmp_path)


def test_serving_scales_from_one_to_three_and_back_under_load(team: Team, tmp_path: Path) -> None:
    """Replicas come as requests wait, and go again; the pods are there all the while."""
    model = {"name": "photos", "route": "/", "replicas": {"min": 1, "max": 3}}
    serve(team, tmp_path, models=[model], downscaleDelaySeconds=20)
    cluster, image = team.cluster, an_image(team, tmp_path).read_bytes()
    url = served(cluster, team.namespace)
    with asked_steadily(url, "photos", image, anew=2, pause_s=0.2) as seen:
        steps = Steps(team, seen)
        steps.done("one replica", 1)
        with asked_steadily(url, "photos", image, anew=20) as more:
            steps.done("three replicas", 3)
            assert [one for one in more if one[0] != 200] == []
        steps.done("one replica again", 1)
    steps.check()
    print(f"{len(seen)} requests while replicas came and went, {len(more)} that had them come")
    install(cluster, team.namespace, tmp_path)


def serve(team: Team, folder: Path, **values: Any) -> None:
    """Serve the champion of `photos` from small pods, as the chart's values of serving say."""
    team.champion("photos")
    serving = {"enabled": True, "noAuth": True, "engine": "torch", **values}
    install(team.cluster, team.namespace, folder, serving=serving, classes__cpu__memory="2Gi")


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def asks(url: str, key: str) -> bool:
    """Whether a key is taken."""
    answer = httpx.get(f"{url}/v1/models", headers={"X-API-Key": key}, timeout=10)
    assert answer.status_code in (200, 401), answer.text
    return answer.is_success


@dataclass(frozen=True)
class Keys:
    """A file of API keys, and the Secret that has it in the cluster."""

    team: Team
    file: Path

    def new(self, name: str) -> str:
        done = self.team.cluster.graft("keys", "new", str(self.file), name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def revoke(self, name: str) -> None:
        assert self.team.cluster.graft("keys", "revoke", str(self.file), name).returncode == 0

    def apply(self) -> str:
        """Put the file into the Secret; return its name."""
        name = "graft-keys"
        self.team.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self.team.namespace},
                "stringData": {"keys.json": self.file.read_text()},
            }
        )
        return name

    def bring(self) -> None:
        """Have the kubelet bring it to the pods now, as the chart's README does."""
        self.team.cluster.kubectl(
            *("annotate", "pods", "-n", self.team.namespace, "-l", "graft.dev/role=serving"),
            *("--overwrite", f"graft.dev/keys-changed={time.time_ns()}"),
        )


def served_versions(cluster: Cluster) -> list[str]:
    versions = json.loads(cluster.graft("models", "ls", "--json").stdout)["models"]
    return [one["model"] for one in versions if one["name"] == "photos"]
