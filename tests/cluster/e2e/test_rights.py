"""What one of the chart's submitters may do, and somebody whom the cluster knows and no more."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import Team, person

pytestmark = [pytest.mark.e2e, pytest.mark.control_plane, pytest.mark.timeout(900)]

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"


def rights(cluster: Cluster, kubeconfig: str, namespace: str) -> set[tuple[str, ...]]:
    """Return what a person may do in a namespace: verb, resource, and name where it is for one."""
    asked = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    said = cluster.kubectl(
        *("create", "--raw", REVIEWS, "-f", "-", "--kubeconfig", kubeconfig),
        stdin=json.dumps(asked),
    )
    return {
        (verb, f"{resource}.{group}".rstrip("."), *rule.get("resourceNames", []))
        for rule in json.loads(said)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_submitter_has_the_rights_of_the_charts_role_and_no_other(
    team: Team, tmp_path: Path
) -> None:
    guest = person(team.cluster, team.namespace, "guest", tmp_path)
    everybodys = rights(team.cluster, guest, team.namespace)
    assert rights(team.cluster, team.kubeconfig, team.namespace) - everybodys == {
        *((verb, "rayjobs.ray.io") for verb in ("create", "get", "list", "delete")),
        *(("list", kind) for kind in ("pods", "configmaps", "resourcequotas", "limitranges")),
        ("get", "namespaces"),
        ("get", "pods/log"),
        *(("get", "pods"), ("create", "pods/portforward"), ("list", "events")),
        *((verb, "services") for verb in ("get", "list")),
        ("get", "secrets", "graft-s3"),
        ("list", "nodes"),
    }
    elsewhere = rights(team.cluster, team.kubeconfig, "default")
    assert elsewhere - everybodys == {("list", "nodes")}


def head_environment(team: Team, job: str) -> dict[str, str]:
    """Return what the head of a sent job is told."""
    rayjob = team.cluster.get("rayjob", job, team.namespace)
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value", "") for variable in head["env"]}


def test_a_submitter_sends_looks_at_and_cancels_jobs(team: Team) -> None:
    job = team.new_id("rights")
    sent = team.graft("submit", str(team.spec), "--id", job, "--json")
    assert sent.returncode == 0, sent.stderr
    try:
        listed = json.loads(team.graft("jobs", "ls", "--json").stdout)["jobs"]
        states = {one["job"]: one["state"] for one in listed}
        assert states[job] in ("starting", "running")
        owner_of = head_environment(team, job)
        assert owner_of["GRAFT_OWNER"].startswith(f"system:serviceaccount:{team.namespace}:")
        assert owner_of["GRAFT_OWNER_SELF_DECLARED"] == "false"
        as_one = ("--kubeconfig", team.kubeconfig)
        with pytest.raises(AssertionError, match='cannot patch resource "rayjobs"'):
            team.cluster.kubectl("label", "rayjob", job, "any=other", *as_one)
    finally:
        cancelled = team.graft("jobs", "cancel", job)
    assert cancelled.returncode == 0, cancelled.stderr
    team.cluster.wait_for("no pods", lambda: not team.pods(job), 90)
    assert team.job(job)["state"] == "cancelled"


def test_a_submitter_is_refused_what_the_commands_do_not_do(team: Team) -> None:
    for command in [
        "get secrets",
        "get secret other",
        "get rayjobs -n default",
        "get pod other -n default",
        "delete pod other",
        "create configmap other",
        "create token graft",
        "create rolebinding more --clusterrole=admin --user=ada",
        "delete raycluster other",
    ]:
        with pytest.raises(AssertionError, match="forbidden"):
            team.cluster.kubectl(*command.split(), "--kubeconfig", team.kubeconfig)


def test_somebody_without_rights_is_told_whom_to_ask(team: Team, tmp_path: Path) -> None:
    guest = person(team.cluster, team.namespace, "guest", tmp_path)
    commands = (["ls"], ["show", "any"], ["cancel", "any"])

    def told(command: list[str]) -> str:
        done = team.cluster.graft("jobs", *command, KUBECONFIG=guest, GRAFT_STORE="")
        assert done.returncode == 2
        return done.stderr

    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(told, commands):
            assert f"no permission in namespace {team.namespace}" in said
            assert "ask its owners to add you to `submitters` of Graft's chart" in said
