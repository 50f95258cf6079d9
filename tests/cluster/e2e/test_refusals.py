"""What cannot run is refused at once, or fails with a reason."""

import time
from pathlib import Path

import pytest

from cluster.e2e.team import Team, install, person, secret

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_what_cannot_run_is_refused_at_once(team: Team, tmp_path: Path) -> None:
    gpus = ("--set", "scaling.workers=8", "--set", "scaling.gpus_per_worker=1")
    assert "no nvidia.com/gpu" in team.refused("--class", "gpu-a100", *gpus)
    assert "resource class 'cpu' has no GPUs" in team.refused(*gpus)
    assert "unknown resource class 'gpu-a10'" in team.refused("--class", "gpu-a10")
    assert "unknown key 'train.epoch'" in team.refused("--set", "train.epoch=1")
    assert "no dataset 'photo'" in team.refused("--set", "dataset.name=photo")
    assert "is not allowed here" in team.refused("--image", "other:1")
    owner = {"KUBECONFIG": team.cluster.kubeconfig}
    assert "no Graft in namespace default" in team.refused("--namespace", "default", **owner)
    assert "no namespace 'nowhere'" in team.refused("--namespace", "nowhere", **owner)
    guest = person(team.cluster, team.namespace, "guest", tmp_path)
    said = team.refused(KUBECONFIG=guest)
    assert f"no permission in namespace {team.namespace}: configmaps is forbidden" in said
    assert 'cannot list resource "configmaps"' in said


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
