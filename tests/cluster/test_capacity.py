"""What a cluster could never run is known before it is sent."""

from typing import Any

import pytest

from colours import colour_spec
from graft.cluster.capacity import misfits, over_quota, pod_requests, without_cpu_limits
from graft.cluster.profile import HeadNode, PodSettings, Profile, ResourceClass, amount
from graft.cluster.rayjob_manifest import Submission, rayjob

PROFILE = Profile.model_validate(
    {
        "image": "graft:1",
        "store": "s3://bucket",
        "service_account": "graft",
        "head": {"cpu": "500m", "memory": "2Gi"},
        "classes": {
            "cpu": {"cpu": "250m", "memory": "2Gi"},
            "gpu": {
                "cpu": "1",
                "memory": "8Gi",
                "gpu": "nvidia.com/gpu",
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        },
        "default_class": "cpu",
    }
)


def requests(name: str = "cpu", **scaling: int) -> list[Any]:
    return pod_requests(
        rayjob(Submission("one", colour_spec(scaling=scaling), None, name), PROFILE)
    )


def node(
    cpu: str, memory: str, pool: str = "cpu", gpus: str | None = None, taint: str | None = None
) -> dict[str, Any]:
    has = {"cpu": cpu, "memory": memory, "ephemeral-storage": "200Gi"} | (
        {"nvidia.com/gpu": gpus} if gpus else {}
    )
    taints = [{"key": taint, "effect": "NoSchedule"}] if taint else None
    meta = {"name": "n", "labels": {"pool": pool}}
    return {"metadata": meta, "spec": {"taints": taints}, "status": {"allocatable": has}}


def test_a_jobs_pods_request_what_all_their_containers_do() -> None:
    head, worker = requests(workers=3, cpus_per_worker=2)
    assert (head.name, head.count) == ("head", 1)
    assert (worker.name, worker.count) == ("worker of class 'cpu'", 3)
    assert worker.requests["cpu"] == amount("510m")  # with what ships its logs
    assert worker.requests["memory"] == worker.limits["memory"] == amount("2240Mi")


def test_a_worker_takes_at_least_what_comes_before_it() -> None:
    _, worker = pod_requests(
        rayjob(
            Submission("one", colour_spec()),
            PROFILE.model_copy(update={"classes": {"cpu": ResourceClass(cpu="50m", memory="1Gi")}}),
        )
    )
    assert worker.requests["cpu"] == amount("210m")  # while its logs are shipped


def test_a_cluster_that_holds_it_has_no_misfits() -> None:
    assert misfits(requests(workers=2), [node("2", "24563892Ki")]) == []
    gpu = node("16", "128Gi", "gpu", gpus="4", taint="gpu")
    assert misfits(requests("gpu", workers=4, gpus_per_worker=1), [node("4", "8Gi"), gpu]) == []


def test_a_node_tainted_with_its_gpu_takes_who_requests_one() -> None:
    """Admission adds the toleration on GKE; elsewhere the pod waits, and says for what."""
    gpu = node("16", "128Gi", "gpu", gpus="4", taint="nvidia.com/gpu")
    pods = requests("gpu", workers=4, gpus_per_worker=1)
    assert misfits(pods, [node("4", "8Gi"), gpu]) == []
    gpu["spec"]["taints"][0]["effect"] = "NoExecute"  # of that nothing is added
    assert "all have taints" in misfits(pods, [node("4", "8Gi"), gpu])[0]
    other = node("16", "128Gi", "gpu", gpus="4", taint="amd.com/gpu")
    assert "all have taints" in misfits(pods, [node("4", "8Gi"), other])[0]


def test_a_head_has_nodes_of_its_own() -> None:
    head = HeadNode(cpu="1", memory="1Gi", node_selector={"pool": "system"})
    profile = PROFILE.model_copy(update={"head": head})
    pods = pod_requests(rayjob(Submission("one", colour_spec()), profile))
    problems = misfits(pods, [node("8", "64Gi")])
    assert [problem.partition(" (")[0] for problem in problems] == ["1 x head"]
    assert misfits(pods, [node("8", "64Gi"), node("2", "4Gi", "system")]) == []


@pytest.mark.parametrize(
    ("pods", "nodes", "message"),
    [
        (
            requests("gpu", workers=8, gpus_per_worker=1),
            [node("2", "24Gi", "gpu")],
            "8 x worker of class 'gpu' (1.01 cpu, 15.0Gi ephemeral-storage, 8.2Gi memory, "
            "1 nvidia.com/gpu): a node of this cluster has no nvidia.com/gpu",
        ),
        (
            requests("gpu", workers=8, gpus_per_worker=1),
            [node("32", "256Gi", "gpu", gpus="4", taint="gpu")],
            "8.2Gi memory, 1 nvidia.com/gpu): the nodes could hold 4",
        ),
        (
            requests("gpu", gpus_per_worker=1),
            [node("32", "256Gi", "other", gpus="4")],
            "no node has its labels, or all have taints that it does not tolerate",
        ),
        (
            requests("gpu", gpus_per_worker=1),
            [node("32", "256Gi", "gpu", gpus="4", taint="dedicated")],
            "no node has its labels, or all have taints that it does not tolerate",
        ),
        (
            requests(workers=6),
            [node("2", "24Gi")],
            "its pods request 2.07 cpu in all, the nodes have 2",
        ),
        (requests(workers=8), [node("2", "24Gi")], "8 x worker of class 'cpu'"),
        (
            requests(cpus_per_worker=16),
            [node("2", "24Gi")],
            "a node of this cluster has at most 2 cpu",
        ),
        (requests(), [], "a node of this cluster has no cpu"),
    ],
)
def test_what_no_node_could_hold_is_named(
    pods: list[Any], nodes: list[dict[str, Any]], message: str
) -> None:
    problems = misfits(pods, nodes)
    assert any(message in problem for problem in problems), problems


def test_a_quota_that_would_be_exceeded_is_named() -> None:
    pods = requests("gpu", workers=2, gpus_per_worker=1)

    def quota(**hard: str) -> dict[str, Any]:
        keys = {key.replace("__", "."): value for key, value in hard.items()}
        used = {"requests.cpu": "1", "pods": "3"}
        return {"metadata": {"name": "team"}, "status": {"hard": keys, "used": used}}

    enough = quota(requests__cpu="10", pods="6") | {"status": {"hard": {"requests.cpu": "10"}}}
    assert over_quota(pods, [enough]) == ([], [])
    assert over_quota(pods, [quota(requests__cpu="3")]).now == [
        "quota team: requests.cpu would be 3.53 of 3, 1 in use"
    ]
    full = "quota team: pods would be 6 of 5, 3 in use"
    assert over_quota(pods, [quota(pods="5")]) == ([], [full])
    scoped = quota(pods="0") | {"spec": {"scopes": ["NotTerminating"]}}
    assert over_quota(pods, [scoped]) == ([], [])
    memory = quota() | {"status": {"hard": {"limits.memory": "8Gi"}}}
    (line,) = over_quota(pods, [memory]).alone
    assert line.startswith("quota team: limits.memory would be 18.6Gi of")
    gpus = quota() | {"status": {"hard": {"requests.nvidia.com/gpu": "1"}}}
    lack = "quota team: requests.nvidia.com/gpu would be 2 of 1, 0 in use"
    assert over_quota(pods, [gpus]) == ([lack], [])


def test_a_quota_that_counts_limits_which_pods_lack_refuses_them() -> None:
    quota = {"metadata": {"name": "team"}, "status": {"hard": {"limits.cpu": "9", "pods": "9"}}}
    (problem,) = without_cpu_limits(requests(), [quota], [])
    assert problem.startswith("quota team counts limits.cpu, which its pods do not set; expected")
    default = {"type": "Container", "default": {"cpu": "4"}}
    for item, problems in (
        (default, 0),
        (default | {"type": "Pod"}, 1),
        ({"type": "Container"}, 1),
    ):
        limit_range = {"spec": {"limits": [item]}}
        assert len(without_cpu_limits(requests(), [quota], [limit_range])) == problems
    memory = quota | {"status": {"hard": {"limits.memory": "9Gi", "requests.cpu": "9"}}}
    scoped = quota | {"spec": {"scopes": ["BestEffort"]}}
    assert without_cpu_limits(requests(), [memory, scoped], []) == []
    limited = PROFILE.model_copy(update={"pods": PodSettings(cpu_limits=True)})
    pods = pod_requests(rayjob(Submission("one", colour_spec()), limited))
    assert without_cpu_limits(pods, [quota], []) == []
