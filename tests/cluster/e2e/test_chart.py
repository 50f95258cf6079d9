"""The chart on a real cluster: installed, tested, upgraded, uninstalled."""

from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import everything, install, secret

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


def test_charts_own_test_passes_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.namespace("test") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        install(cluster, namespace, tmp_path)
        print(cluster.helm("test", "graft", "-n", namespace, "--logs"))
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)
