"""Every manifest that this project makes or has is taken by the API server, field by field."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import ROOT, Team
from graft.cluster.profile import Profile
from graft.cluster.rayjob_manifest import Submission, rayjob
from graft.spec import load_job, parse_yaml
from helm.rendering import CASES, Object, only, rendered

pytestmark = [pytest.mark.e2e, pytest.mark.control_plane, pytest.mark.timeout(900)]

JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.yaml"))
DEPLOY = ROOT / "deploy"
NO_CRD = ("PodMonitor", "PrometheusRule")
"""The kinds of the chart's that no program of the tests brings."""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace with the service account of the chart's pods, which no dry run leaves there."""
    with cluster.namespace("manifests") as name:
        cluster.kubectl("create", "serviceaccount", "graft", "-n", name)
        yield name


def taken(cluster: Cluster, namespace: str, objects: list[Object]) -> list[str]:
    """Return what the API server would make of some objects, by kind and name."""
    said = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "-n", namespace, "-f", "-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )
    lines = [line.partition(" serverside-applied (server dry run)") for line in said.splitlines()]
    return [name for name, words, _ in lines if words]


@pytest.fixture(scope="module")
def printed(team: Team) -> dict[str, "subprocess.CompletedProcess[str]"]:
    """What `graft submit --dry-run` makes of each job."""

    def submit(job: str) -> "subprocess.CompletedProcess[str]":
        return team.graft("submit", str(ROOT / "jobs" / job), "--id", "dry", "--dry-run")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(JOBS, pool.map(submit, JOBS), strict=True))


@pytest.mark.parametrize("job", JOBS)
def test_what_submit_prints_is_taken(
    team: Team, printed: dict[str, "subprocess.CompletedProcess[str]"], job: str
) -> None:
    sent = printed[job]
    assert sent.returncode == 0, sent.stderr
    said = team.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=sent.stdout)
    assert "rayjob.ray.io/dry created" in said
    assert team.cluster.get("rayjob", "dry", team.namespace) == {}


@pytest.mark.parametrize("case", CASES)
def test_what_the_chart_makes_is_taken(cluster: Cluster, namespace: str, case: str) -> None:
    objects = [one for one in rendered(CASES[case]) if one["kind"] not in NO_CRD]
    if any(one["metadata"]["name"].endswith("-profile") for one in objects):
        profile = only(objects, "ConfigMap", "-profile")["data"]["profile.yaml"]
        job = rayjob(
            Submission("one", load_job(ROOT / "jobs" / "finetune.yaml")),
            Profile.model_validate(parse_yaml(profile, "profile.yaml")),
        )
        objects.append(job)
    assert len(taken(cluster, namespace, objects)) == len(objects)


def test_what_has_a_mistake_is_refused(cluster: Cluster, namespace: str) -> None:
    for kind, mistake in {"RayService": "serveConfig", "NetworkPolicy": "pods"}.items():
        wrong = next(one for one in rendered(CASES["serving"]) if one["kind"] == kind)
        wrong["spec"][mistake] = {}
        with pytest.raises(AssertionError, match=mistake):
            taken(cluster, namespace, [wrong])


def test_manifests_without_helm_are_taken(cluster: Cluster, namespace: str) -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "graft.yaml").read_text()))
    assert len(taken(cluster, namespace, objects)) == len(objects)


def test_recipe_for_kind_is_taken(cluster: Cluster, namespace: str) -> None:
    values = parse_yaml((DEPLOY / "kind" / "values.yaml").read_text(), "values.yaml")
    objects = rendered(values)
    assert len(taken(cluster, namespace, objects)) == len(objects)
    store = list(yaml.safe_load_all((DEPLOY / "kind" / "minio.yaml").read_text()))
    for one in store:
        if one["metadata"].get("namespace") == "minio":  # which a dry run does not make
            one["metadata"]["namespace"] = namespace
    assert len(taken(cluster, namespace, store)) == len(store)
