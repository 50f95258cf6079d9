"""What the cluster lets in: pods under the restricted standard, jobs under quotas."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import Team, everything, install, secret

pytestmark = [pytest.mark.e2e, pytest.mark.control_plane, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One with the chart, and without a job yet."""
    with cluster.namespace("admission") as name:
        secret(cluster, name)
        install(cluster, name, tmp_path_factory.mktemp("admission"))
        yield name


def submit(team: Team, namespace: str, job: str, *words: str) -> tuple[int, str, str]:
    """Submit the team's spec in a namespace; return the exit code and what is printed and said."""
    job_there = ("--id", job, "--namespace", namespace)
    done = team.cluster.graft("submit", str(team.spec), *job_there, *words)
    return done.returncode, done.stdout, done.stderr


def cancel(team: Team, namespace: str, job: str) -> None:
    done = team.cluster.graft("jobs", "cancel", job, "--namespace", namespace)
    assert done.returncode == 0, done.stderr


def why(team: Team, namespace: str, job: str) -> str:
    """Return why a job does not run, once KubeRay's operator has failed to make a pod for it."""

    def failed() -> bool:
        status = team.cluster.get("rayjob", job, namespace).get("status", {})
        conditions = status.get("rayClusterStatus", {}).get("conditions", [])
        return any(one["type"] == "ReplicaFailure" for one in conditions)

    team.cluster.wait_for("a pod that cannot be made", failed)
    done = team.cluster.graft("jobs", "show", job, "--json", "--namespace", namespace)
    return str(json.loads(done.stdout)["why"])


def test_pods_of_the_restricted_standard_are_all_that_is_made(team: Team, tmp_path: Path) -> None:
    """Of a job, of the shared cluster and of serving, as KubeRay's operator makes them."""
    cluster = team.cluster
    with cluster.namespace("restricted") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        serving = {"enabled": True, "model": "photos", "noAuth": True, "replicas": 1}
        install(cluster, namespace, tmp_path, rayCluster__enabled=True, serving=serving)
        job = team.new_id("admitted")
        code, _, said = submit(team, namespace, job)
        assert code == 0, said

        def made() -> set[tuple[str, str]]:
            pods = cluster.find("pods", namespace, "ray.io/is-ray-node=yes")
            labels = [pod["metadata"]["labels"] for pod in pods]
            return {(one["graft.dev/role"], one["ray.io/node-type"]) for one in labels}

        roles = ("job", "shared", "serving")
        wanted = {(role, kind) for role in roles for kind in ("head", "worker")}
        cluster.wait_for("a pod of each kind", lambda: made() == wanted)
        cancel(team, namespace, job)
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before, 120)


def test_pods_beyond_the_restricted_standard_are_refused_and_the_job_says_so(
    team: Team, namespace: str
) -> None:
    job = team.new_id("beyond")
    code, printed, said = submit(team, namespace, job, "--dry-run", "--json")
    assert code == 0, said
    beyond = json.loads(printed)
    head = beyond["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    team.cluster.kubectl("create", "-f", "-", stdin=json.dumps(beyond))
    violation = 'violates PodSecurity "restricted'
    assert violation in why(team, namespace, job)
    with pytest.raises(AssertionError, match=violation):
        team.cluster.kubectl("run", "any", "--image=any", "-n", namespace)


@contextlib.contextmanager
def quota(
    cluster: Cluster, namespace: str, hard: dict[str, str], scopes: Sequence[str] = ()
) -> Iterator[None]:
    """Have a quota in force while the block lasts."""
    wanted = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team", "namespace": namespace},
        "spec": {"hard": hard} | ({"scopes": list(scopes)} if scopes else {}),
    }

    def counted() -> bool:
        used = cluster.get("resourcequota", "team", namespace).get("status", {}).get("used", {})
        return bool(used.keys() == hard.keys())

    cluster.apply(wanted)
    try:
        cluster.wait_for("the quota", counted, 120)  # RayJobs are counted once they are discovered
        yield
    finally:
        cluster.kubectl("delete", "resourcequota", "team", "-n", namespace)


def test_quotas_are_told_before_anything_is_sent(team: Team, namespace: str) -> None:
    cluster, job = team.cluster, team.new_id("quota")
    most = {"requests.cpu": "500m", "limits.memory": "8Gi", "pods": "2"}
    with quota(cluster, namespace, most | {"count/rayjobs.ray.io": "0"}):
        code, _, said = submit(team, namespace, job)
        print(said)
        assert code == 2
        assert "could never run" in said
        # A head and two workers, with what ships their logs; KubeRay's init container takes 0.2.
        assert "quota team: requests.cpu would be 0.63 of 0.5, 0 in use" in said
        assert "quota team: limits.memory would be 11.6Gi of 8.0Gi, 0.0Gi in use" in said
        assert "quota team: pods would be 3 of 2, 0 in use" in said
        assert "quota team: count/rayjobs.ray.io would be " in said
    with quota(cluster, namespace, {"limits.cpu": "20", "pods": "4"}):
        code, _, said = submit(team, namespace, job)
        assert code == 2
        assert "could never run" in said
        assert "quota team counts limits.cpu, which its pods do not set" in said
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "team", "namespace": namespace},
                "spec": {"limits": [{"type": "Container", "default": {"cpu": "2"}}]},
            }
        )
        code, _, said = submit(team, namespace, job)
        assert code == 0, said
        cancel(team, namespace, job)


def test_quota_for_some_pods_is_told_by_the_job(team: Team, namespace: str) -> None:
    """`graft submit` cannot know whom it holds for."""
    with quota(team.cluster, namespace, {"pods": "0"}, scopes=["NotTerminating"]):
        job = team.new_id("scoped")
        code, _, said = submit(team, namespace, job)
        assert code == 0, said
        assert "exceeded quota: team" in why(team, namespace, job)
