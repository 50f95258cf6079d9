"""The chart on a real cluster: installed, tested, upgraded, uninstalled."""

import json
import subprocess
from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import CHART, Team, everything, install, secret, values

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.mark.control_plane
def test_chart_is_installed_upgraded_and_uninstalled_with_nothing_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.namespace("chart") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        said = install(cluster, namespace, tmp_path)
        assert "graft submit" in said
        install(cluster, namespace, tmp_path, jobs__retries=5)
        profile = cluster.find("configmaps", namespace, "graft.dev/profile=true")
        assert "retries: 5" in profile[0]["data"]["profile.yaml"]
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)


@pytest.mark.control_plane
def test_two_releases_in_a_namespace(team: Team, tmp_path: Path) -> None:
    """One of them has jobs, or people choose; both are served by one operator."""
    cluster = team.cluster
    with cluster.namespace("two") as namespace:
        secret(cluster, namespace)
        install(cluster, namespace, tmp_path)
        file = tmp_path / "second.json"
        second = ("upgrade", "--install", "second", str(CHART), "-n", namespace, "-f", str(file))

        def submit(**environment: str) -> "subprocess.CompletedProcess[str]":
            words = ("submit", str(team.spec), "--dry-run", "--json", "--namespace", namespace)
            return cluster.graft(*words, **environment)

        def account(**environment: str) -> str:
            manifest = json.loads(submit(**environment).stdout)
            head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
            return str(head["serviceAccountName"])

        models = [{"name": "photos", "route": "/"}, {"name": "ants", "replicas": {"min": 1}}]
        serving = {"enabled": True, "models": models}
        file.write_text(values(cluster, jobs__enabled=False, serving=serving))
        cluster.helm(*second)
        assert account() == "graft"
        file.write_text(values(cluster, serving=serving))
        cluster.helm(*second)
        assert "--profile or GRAFT_PROFILE: graft-profile, graft-second-profile" in submit().stderr
        assert account(GRAFT_PROFILE="graft-second-profile") == "graft-second"


def test_charts_own_test_passes_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.namespace("test") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        install(cluster, namespace, tmp_path)
        print(cluster.helm("test", "graft", "-n", namespace, "--logs"))
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)
