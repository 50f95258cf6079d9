"""A served model, and a promotion under steady requests."""

import json
import subprocess
import time
from pathlib import Path

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
    install(cluster, team.namespace, tmp_path, serving=serving)
    url = served(cluster, team.namespace)
    print(f"install to answer: {time.monotonic() - began:.1f} s")
    print(cluster.helm("test", "graft", "-n", team.namespace))
    image = an_image(team, tmp_path)
    asked = cluster.graft("predict", "photos", str(image), "--url", url, "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["images"][0]["model"] == first
    curl = ["curl", "-sS", "--data-binary", f"@{image}", f"{url}/v1/models/photos/predict"]
    assert f'"model":"{first}"' in subprocess.run(curl, capture_output=True, text=True).stdout

    with asked_steadily(url, "photos", image.read_bytes()) as seen:
        cluster.wait_for("answers of the old version", lambda: len(seen) > 20, 60)
        assert cluster.graft("models", "promote", second, "--alias", "champion").returncode == 0
        cluster.wait_for("the new version", lambda: seen and seen[-1][1] == second, 60)
        so_far = len(seen)
        cluster.wait_for("more of its answers", lambda: len(seen) > so_far + 20, 60)
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
    serving = {"enabled": True, "models": models, "replicas": 1, "pollSeconds": 2}
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


def served_versions(cluster: Cluster) -> list[str]:
    versions = json.loads(cluster.graft("models", "ls", "--json").stdout)["models"]
    return [one["model"] for one in versions if one["name"] == "photos"]
