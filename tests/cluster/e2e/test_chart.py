"""The chart on a real cluster, and what its API server takes."""

import copy
import json
from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import Team, install, secret

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


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
