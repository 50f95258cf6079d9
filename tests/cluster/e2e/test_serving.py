"""A served model, and a promotion under steady requests."""

import json
import subprocess
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

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
        cluster.wait_for("answers of the old version", lambda: len(seen) > 20, 60)
        assert cluster.graft("models", "promote", second, "--alias", "champion").returncode == 0
        cluster.wait_for("the new version", lambda: seen and seen[-1][1] == second, 60)
        so_far = len(seen)
        cluster.wait_for("more of its answers", lambda: len(seen) > so_far + 20, 60)
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
