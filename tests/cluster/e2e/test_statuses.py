"""What KubeRay 1.7 would say, which is not to be had here, played to our commands by its statuses.

The statuses, reasons and messages are those of its source. The API server is real; an operator
that is real, too, leaves alone what is managed by another.
"""

import contextlib
import json
from collections.abc import Iterator

import pytest

from cluster.e2e.team import Team

pytestmark = [pytest.mark.e2e, pytest.mark.control_plane, pytest.mark.timeout(900)]

PLAYED = {"managedBy": "kueue.x-k8s.io/multikueue"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
FAILED = {"jobDeploymentStatus": "Failed"}
STATUSES: tuple[tuple[dict[str, object], str, str], ...] = (
    ({}, "starting", "the KubeRay operator has not taken it up"),
    ({"jobDeploymentStatus": "Initializing"}, "starting", "0 of 3 pods are ready"),
    ({"jobDeploymentStatus": "Suspended"}, "queued", "waits for its queue to admit it"),
    ({"jobDeploymentStatus": "Running", "jobStatus": ""}, "starting", "0 of 3 pods are ready"),
    (RUNNING, "running", ""),
    # 1.7 counts 300 s in which the head does not answer, and does not retry.
    (
        FAILED
        | {
            "jobStatus": "RUNNING",
            "reason": "JobStatusCheckTimeoutExceeded",
            "message": "Failed to check the job status within 300 seconds: dial tcp: i/o timeout",
        },
        "failed",
        "its head did not answer for too long",
    ),
    (
        FAILED | {"reason": "PreRunningDeadlineExceeded", "message": "not Running after 900 s"},
        "failed",
        "its pods did not run within the start deadline",
    ),
    ({"jobDeploymentStatus": "Retrying", "failed": 1}, "starting", "another one is made"),
    (
        {"jobDeploymentStatus": "Initializing", "failed": 1},
        "starting",
        "attempt 2: 0 of 3 pods are ready",
    ),
    (FAILED | {"reason": "DeadlineExceeded"}, "failed", "it ran into its deadline"),
    ({"jobDeploymentStatus": "ValidationFailed", "message": "no such"}, "failed", "no such"),
    (FAILED | {"reason": "NewerThanAll", "message": "a reason\nof later"}, "failed", "of later"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "failed", "Ray says STOPPED"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded", ""),
)


def play(team: Team, job: str, status: dict[str, object]) -> None:
    """Write a RayJob's status, as an operator does."""
    words = ("replace", "-f", "-", "--subresource=status")
    rayjob = team.cluster.get("rayjob", job, team.namespace)
    team.cluster.kubectl(*words, stdin=json.dumps(rayjob | {"status": status}))


def sent(team: Team, job: str) -> None:
    """Send a job that no operator touches."""
    printed = team.graft("submit", str(team.spec), "--id", job, "--dry-run", "--json")
    assert printed.returncode == 0, printed.stderr
    manifest = json.loads(printed.stdout)
    team.cluster.apply(manifest | {"spec": manifest["spec"] | PLAYED})


def test_every_status_is_told_in_words(team: Team) -> None:
    job = team.new_id("played")
    sent(team, job)
    for status, state, why in STATUSES:
        play(team, job, status)
        told = team.job(job)
        assert told["state"] == state, (status, told)
        assert why in (told["why"] or ""), (status, told)


def test_a_job_whose_head_was_silent_for_too_long_ends_and_is_resumed(team: Team) -> None:
    """Nothing of KubeRay 1.7 goes on with it; a person does, with one command."""
    job = team.new_id("silent")
    sent(team, job)
    play(team, job, RUNNING)
    waiting = team.cluster.start("jobs", "wait", job, KUBECONFIG=team.kubeconfig)
    reason = {"reason": "JobStatusCheckTimeoutExceeded", "message": "i/o timeout"}
    play(team, job, FAILED | {"jobStatus": "RUNNING"} | reason)
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert "its head did not answer for too long" in said
    resumed = team.graft("jobs", "resume", job)
    assert resumed.returncode == 0, resumed.stderr
    assert team.job(job)["state"] == "starting"
    team.graft("jobs", "cancel", job)


@contextlib.contextmanager
def silent_node(team: Team, name: str) -> Iterator[None]:
    """Have a node that Kubernetes knows of, and of which nobody hears, while the block lasts."""
    node = {"metadata": {"name": name}, "spec": {"unschedulable": True}}
    team.cluster.apply({"apiVersion": "v1", "kind": "Node"} | node)
    try:
        yield
    finally:
        team.cluster.kubectl("delete", "node", name)


def test_a_lost_node_is_told_by_name_and_what_is_told_helps(team: Team) -> None:
    job = team.new_id("lost-node")
    printed = team.graft("submit", str(team.spec), "--id", job, "--dry-run", "--json")
    head = json.loads(printed.stdout)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    labels = head["metadata"]["labels"] | {"ray.io/node-type": "head"}
    meta = {"name": f"{job}-head", "namespace": team.namespace, "labels": labels}
    node = f"{job}-node"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
    sent(team, job)
    play(team, job, RUNNING)

    def gone() -> bool:
        return not team.pods(job)

    with silent_node(team, node):
        team.cluster.apply(pod | {"spec": head["spec"] | {"nodeName": node}})
        words = ("delete", "pod", f"{job}-head", "-n", team.namespace)
        # As Kubernetes itself does half a minute after a node has fallen silent.
        team.cluster.kubectl(*words, "--grace-period=1", "--wait=false")

        def told() -> str:
            found = team.job(job)
            lost = f"node {node} of its head does not answer" in (found["why"] or "")
            return str(found["why"]) if lost and found["state"] == "starting" else ""

        why = team.cluster.wait_for("the lost node is told", told, 120)
        print(why)
        assert not gone()
        out_of_service = why.rpartition("taints it ")[2]
        team.cluster.kubectl("taint", "node", node, out_of_service)
        team.cluster.wait_for("its pod is let go", gone, 240)
    assert team.graft("jobs", "cancel", job).returncode == 0
