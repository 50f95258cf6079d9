"""What cannot run is refused at once, or fails with a reason."""

import copy
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.e2e.team import Team, install, person, secret

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.mark.control_plane
def test_what_cannot_run_is_refused_at_once(team: Team, tmp_path: Path) -> None:
    gpus = ("--set", "scaling.workers=8", "--set", "scaling.gpus_per_worker=1")
    owner = {"KUBECONFIG": team.cluster.kubeconfig}
    guest = {"KUBECONFIG": person(team.cluster, team.namespace, "guest", tmp_path)}
    cases: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
        ("no nvidia.com/gpu", ("--class", "gpu-a100", *gpus), {}),
        ("resource class 'cpu' has no GPUs", gpus, {}),
        ("unknown resource class 'gpu-a10'", ("--class", "gpu-a10"), {}),
        ("unknown key 'train.epoch'", ("--set", "train.epoch=1"), {}),
        ("no dataset 'photo'", ("--set", "dataset.name=photo"), {}),
        ("is not allowed here", ("--image", "other:1"), {}),
        ("no Graft in namespace default", ("--namespace", "default"), owner),
        ("no namespace 'nowhere'", ("--namespace", "nowhere"), owner),
        (
            f"no permission in namespace {team.namespace}: configmaps is forbidden: .*"
            ' cannot list resource "configmaps"',
            (),
            guest,
        ),
    ]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda case: team.refused(*case[1], **case[2]), cases))
    for (expected, *_), told in zip(cases, said, strict=True):
        assert re.search(expected, told)


@pytest.mark.control_plane
def test_queue_in_a_cluster_without_kueue(team: Team, tmp_path: Path) -> None:
    with team.cluster.namespace("queued") as namespace:
        secret(team.cluster, namespace)
        install(team.cluster, namespace, tmp_path, jobs__queue="vision")
        ada = {"KUBECONFIG": person(team.cluster, namespace, "ada", tmp_path)}
        said = team.refused("--namespace", namespace, **ada)
        assert "'vision' (jobs.queue), and Kueue is not installed in this cluster" in said


@pytest.mark.control_plane
def test_kuberay_that_is_too_old(team: Team) -> None:
    cluster = team.cluster
    newer = cluster.get("customresourcedefinition", "rayjobs.ray.io")
    del newer["metadata"]["resourceVersion"]
    older = copy.deepcopy(newer)
    for version in older["spec"]["versions"]:
        job = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        job["rayClusterSpec"]["properties"].pop("authOptions", None)
    sent = team.graft("submit", str(team.spec), "--id", "old", "--dry-run").stdout

    def accepted(wanted: bool) -> bool:
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=sent)
        except AssertionError:
            return not wanted
        return wanted

    try:
        cluster.kubectl("replace", "-f", "-", stdin=json.dumps(older))
        cluster.wait_for("the older schema", lambda: accepted(False))
        said = team.refused("--id", "old")
        assert "KubeRay is older than 1.6" in said
        assert 'unknown field "spec.rayClusterSpec.authOptions"' in said
    finally:
        cluster.kubectl("replace", "-f", "-", stdin=json.dumps(newer))
        cluster.wait_for("the newer schema", lambda: accepted(True))


def test_image_that_cannot_be_pulled(team: Team, tmp_path: Path) -> None:
    with team.cluster.namespace("pull") as namespace:
        secret(team.cluster, namespace)
        hasty = {"jobs__retries": 0, "jobs__startDeadlineSeconds": 20}
        install(team.cluster, namespace, tmp_path, **hasty)
        began = time.monotonic()
        done = team.cluster.graft(
            *("submit", str(team.spec), "--id", team.new_id("pull"), "--wait"),
            *("--image", "localhost/nowhere:1", "--namespace", namespace),
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
        job = ("--id", team.new_id("wrong"), "--namespace", namespace)
        done = team.cluster.graft("submit", str(team.spec), *job, "--wait")
        print(f"{time.monotonic() - began:.1f} s: {done.stderr.strip()}")
        assert done.returncode == 1
        assert "SignatureDoesNotMatch" in done.stdout + done.stderr
