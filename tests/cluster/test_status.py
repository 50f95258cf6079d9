"""How a job stands: from a RayJob, its pods and the store's record to a line."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graft.cluster.job_records import JobRecord
from graft.cluster.status import REASONS, ClusterStatus, combine, rayjob_status


def rayjob(deleted: bool = False, **status: Any) -> dict[str, Any]:
    labels = {"graft.dev/job": "one", "graft.dev/kind": "finetune"}
    meta: dict[str, Any] = {"name": "one", "labels": labels}
    if deleted:
        meta["deletionTimestamp"] = "2026-11-24T10:00:00Z"
    env = [{"name": "GRAFT_SPEC", "value": "kind: finetune\n"}]
    head = {"template": {"spec": {"containers": [{"env": env}]}}}
    cluster = {"headGroupSpec": head, "workerGroupSpecs": [{"replicas": 2}]}
    return {"metadata": meta, "spec": {"rayClusterSpec": cluster}, "status": status}


def pod(name: str, phase: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": phase} | status}


def ready(name: str) -> dict[str, Any]:
    made = pod(name, "Running", conditions=[{"type": "Ready", "status": "True"}])
    made["metadata"]["labels"] = {"ray.io/node-type": "worker"}
    return made


def waiting(
    name: str, reason: str, message: str, kind: str = "containerStatuses"
) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(name, "Pending", **{kind: [{"state": state}]})


def unschedulable(name: str, message: str) -> dict[str, Any]:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }
    return pod(name, "Pending", conditions=[condition])


@pytest.mark.parametrize(
    ("status", "pods", "state", "why"),
    [
        ({}, [], "starting", "the KubeRay operator has not taken it up"),
        ({"jobDeploymentStatus": "Initializing"}, [], "starting", "0 of 3 pods are ready"),
        (
            {"jobDeploymentStatus": "Initializing"},
            [ready("h"), waiting("w", "ContainerCreating", "")],
            "starting",
            "1 of 3 pods are ready",
        ),
        (
            {
                "jobDeploymentStatus": "Initializing",
                "rayClusterStatus": {
                    "conditions": [
                        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
                    ]
                },
            },
            [],
            "starting",
            "exceeded quota",
        ),
        (
            {"jobDeploymentStatus": "Initializing"},
            [
                unschedulable("w1", "0/1 nodes are available"),
                waiting("w2", "ErrImagePull", "failed to pull\n graft:2", "initContainerStatuses"),
            ],
            "starting",
            "w2: ErrImagePull: failed to pull graft:2",
        ),
        (
            {"jobDeploymentStatus": "Initializing"},
            [ready("h"), unschedulable("w1", "0/1 nodes are available: memory")],
            "starting",
            "w1: 0/1 nodes are available: memory",
        ),
        (
            {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"},
            [ready("h"), ready("w"), ready("v")],
            "starting",
            "its pods are ready, the driver starts",
        ),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, [], "running", None),
        # Ray knows its end before KubeRay does.
        ({"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, [], "running", None),
        ({"jobDeploymentStatus": "Suspended"}, [], "queued", "waits for its queue to admit it"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, [], "succeeded", None),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, [], "failed", "Ray says STO"),
        (
            {
                "jobDeploymentStatus": "Failed",
                "reason": "PreRunningDeadlineExceeded",
                "message": "long words",
            },
            [],
            "failed",
            "its pods did not run within the start deadline",
        ),
        (
            {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "exit 1\nmore"},
            [],
            "failed",
            "exit 1 more",
        ),
        (
            {"jobDeploymentStatus": "ValidationFailed", "message": "bad name"},
            [],
            "failed",
            "bad name",
        ),
        (
            {"jobDeploymentStatus": "Retrying", "failed": 1},
            [],
            "starting",
            "its cluster failed, another one is made",
        ),
        (
            {"jobDeploymentStatus": "Initializing", "failed": 1, "message": ""},
            [],
            "starting",
            "attempt 2: 0 of 3 pods are ready",
        ),
    ],
)
def test_a_cluster_says_how_a_job_stands(
    status: dict[str, Any], pods: list[dict[str, Any]], state: str, why: str | None
) -> None:
    shown = rayjob_status(rayjob(**status), pods)
    assert (shown.job, shown.kind, shown.spec) == ("one", "finetune", "kind: finetune\n")
    assert shown.state == state
    assert (shown.why or "").startswith(why or "")
    assert (shown.why is None) == (why is None)


def test_a_job_that_is_being_deleted_is_cancelled() -> None:
    status = rayjob_status(
        rayjob(deleted=True, jobDeploymentStatus="Running", jobStatus="RUNNING"), []
    )
    assert status.state == "cancelled"


RUNS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
NOW = datetime.now(UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(role: str, phase: str = "Running", created_s: float = 9000, **status: Any) -> Any:
    made = pod(f"one-{role}", phase, **status)
    made["metadata"] |= {
        "namespace": "team",
        "labels": {"ray.io/node-type": role},
        "creationTimestamp": ago(created_s),
    }
    made["spec"] = {"nodeName": f"gpu-{role}"}
    return made


def ending(role: str, end_s: float, unready_s: float, evicted_s: float | None = None) -> Any:
    """A pod that was told to end, with the seconds since when its conditions are so."""
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": ago(unready_s)}]
    if evicted_s is not None:
        conditions.append(
            {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "lastTransitionTime": ago(evicted_s),
            }
        )
    made = node(role, conditions=conditions)
    made["metadata"]["deletionTimestamp"] = ago(end_s)
    return made


@pytest.mark.parametrize(
    ("pods", "state", "said"),
    [
        ([node("head"), node("worker")], "running", []),
        ([], "running", []),  # nobody may look
        # Silent, then given up, a minute before its time to end.
        (
            [ending("head", -60, 45, 15), node("worker")],
            "starting",
            [
                f"node gpu-head of its head does not answer since {ago(45)[:-1]}+00:00",
                "graft jobs cancel one, then graft jobs resume one goes on elsewhere",
                "kubectl delete pod one-head -n team --force --grace-period=0",
                "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
            ],
        ),
        # An administrator drains its node by a taint: it ends as it was told.
        ([ending("head", -60, 5, 10), node("worker")], "running", []),
        ([ending("head", -60, 5), node("worker")], "running", []),
        # Its time to end is long past.
        ([ending("head", 300, 400), node("worker")], "starting", ["node gpu-head of its head"]),
        (
            [node("head"), ending("worker", 300, 400)],
            "running",
            ["node gpu-worker of its worker does not answer", "no other worker"],
        ),
        ([node("worker")], "starting", ["its head is gone, another one is made"]),
        (
            [node("head", "Pending", 60), node("worker")],
            "starting",
            ["its head was lost, and another one waits"],
        ),
        (
            [
                node(
                    "head",
                    "Pending",
                    3600,
                    conditions=unschedulable("", "0/3 nodes")["status"]["conditions"],
                ),
                node("worker"),
            ],
            "starting",
            [
                "another one waits: one-head: 0/3 nodes",
                f"since {ago(3600)[:-1]}+00:00, and its start deadline is 15 min",
                "graft jobs cancel one frees its other pods",
            ],
        ),
        (
            [node("head"), node("worker", "Pending", 60)],
            "running",
            ["its worker was lost, and another one waits"],
        ),
    ],
)
def test_what_keeps_a_job_from_going_on_is_said_by_name(
    pods: list[dict[str, Any]], state: str, said: list[str]
) -> None:
    made = rayjob(**RUNS)
    made["spec"]["preRunningDeadlineSeconds"] = 900
    status = rayjob_status(made, pods, NOW)
    assert (status.state, status.why is None) == (state, not said)
    for words in said:
        assert words in (status.why or "")


def test_pods_of_a_job_that_ray_has_ended_may_go() -> None:
    made = rayjob(**RUNS | {"jobStatus": "SUCCEEDED"})
    assert rayjob_status(made, [ending("head", 300, 400)], NOW).state == "running"


def record(**changes: Any) -> JobRecord:
    fields = {
        "job": "one",
        "kind": "finetune",
        "state": "running",
        "attempt": 2,
        "started": "2026-11-24T10:00:00+00:00",
    }
    return JobRecord.model_validate(fields | changes)


RUNNING = ClusterStatus("one", "finetune", "running")


@pytest.mark.parametrize(
    ("on_cluster", "record", "on_this_cluster", "line"),
    [
        (RUNNING, record(), True, "running: epoch 3/8"),
        (RUNNING, None, True, "running: epoch 3/8"),
        # Its own word counts, though its cluster does not know yet, or tries again in vain.
        (RUNNING, record(state="succeeded", final=True, model="m@1"), True, "succeeded: m@1"),
        (
            ClusterStatus("one", "finetune", "starting", "attempt 1 failed"),
            record(state="failed", final=True, error="no dataset 'x'"),
            True,
            "failed: no dataset 'x'",
        ),
        (
            ClusterStatus("one", "finetune", "starting", "attempt 2: w1: 0/3 nodes are available"),
            record(state="failed", error="a worker died"),
            True,
            "starting: a worker died; attempt 2: w1: 0/3 nodes are available",
        ),
        (
            ClusterStatus("one", "finetune", "failed", REASONS["PreRunningDeadlineExceeded"]),
            record(state="failed", error="a worker died"),
            True,
            "failed: a worker died; its pods did not run within the start deadline",
        ),
        (
            ClusterStatus("one", "finetune", "failed", "exit 1"),
            record(state="failed", error="a worker died"),
            True,
            "failed: a worker died",
        ),
        # Its RayJob is gone, or there is no cluster to ask.
        (None, record(state="succeeded", final=True, model="m@1"), True, "succeeded: m@1"),
        (None, record(), True, "failed: its cluster is gone, and it did not say how it ended"),
        (None, record(), False, "running: epoch 3/8"),
        (None, None, True, "failed: it was not sent, or was deleted before it began"),
    ],
)
def test_what_the_cluster_and_the_store_know_together(
    on_cluster: ClusterStatus | None,
    record: JobRecord | None,
    on_this_cluster: bool,
    line: str,
) -> None:
    status = combine("one", on_cluster, record, "epoch 3/8", on_this_cluster)
    assert str(status) == line
    assert status.has_ended == line.startswith(("succeeded", "failed"))
