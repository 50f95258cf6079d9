"""The cluster for the scenarios, raised once, and their table.

`make e2e` runs them inside the namespaces in which a cluster can be raised; a plain pytest skips
them. To work on one, raise the cluster in another terminal with `make cluster`, enter it as that
says, and run `pytest -m e2e -k NAME` in there as often as you like: the fixture then uses that
cluster.
"""

import contextlib
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.machine import phases
from cluster.e2e.team import ROOT, Team, install, person, secret
from colours import colour_spec, draw_colours
from graft.spec import dump_job

SHARED = ROOT.parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_1-imagenet.safetensors"
_CLUSTER = pytest.StashKey[Cluster]()
_SCENARIOS = pytest.StashKey[list[pytest.TestReport]]()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """A real Kubernetes with KubeRay's operator, an S3 server, and Graft's image on its node.

    In `make e2e E2E=control-plane` it has no node.
    """
    raised, image = os.environ.get("GRAFT_E2E_CLUSTER"), os.environ.get("GRAFT_E2E_IMAGE")
    if raised:
        return Cluster(**json.loads(Path(raised).read_text()))
    if image is None:
        pytest.skip(os.environ.get("GRAFT_E2E_CANNOT") or "`make e2e` raises the cluster")
    if _CLUSTER not in pytestconfig.stash:  # it outlives this fixture, for second tries
        from cluster.e2e.raising import raise_cluster

        until_the_end = contextlib.ExitStack()
        pytestconfig.add_cleanup(until_the_end.close)
        raising = raise_cluster(image or None)
        pytestconfig.stash[_CLUSTER] = until_the_end.enter_context(raising)
    return pytestconfig.stash[_CLUSTER]


@pytest.fixture(autouse=True)
def _node_where_it_takes_one(request: pytest.FixtureRequest) -> None:
    marks = {mark.name for mark in request.node.iter_markers()}
    if "e2e" in marks and "control_plane" not in marks:
        cluster: Cluster = request.getfixturevalue("cluster")
        if not cluster.has_node:
            pytest.skip("it takes a node, and this cluster has none")


@pytest.fixture(scope="session")
def team(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    real = cluster.has_node and WEIGHTS.is_file()
    counts = (60, 20) if cluster.has_node else (2, 1)  # where nothing is trained on them
    images = SHARED / "ants-bees" if real else draw_colours(folder / "images", *counts)
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
        done = cluster.graft(
            "data", "import", str(images), "--name", "photos", "--test-fraction", "0"
        )
        assert done.returncode == 0, done.stderr
        kubeconfig = person(cluster, namespace, "ada", folder)
        yield Team(cluster, namespace, kubeconfig, images, path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("e2e") and (report.when == "call" or report.outcome != "passed"):
        item.config.stash.setdefault(_SCENARIOS, []).append(report)
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    scenarios = config.stash.get(_SCENARIOS, [])
    if not any(report.when == "call" for report in scenarios):
        return
    write = terminalreporter.write_line
    terminalreporter.section("a real Kubernetes")
    for name, seconds in phases():
        write(f"{seconds:8.1f} s  {name}")
    write("")
    for report in scenarios:
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        write(f"{report.duration:8.1f} s  {report.outcome:8} {name}")
