"""Whether a cluster could ever run a job, which is checked before it is sent; pure.

Nodes, quotas and manifests come as Kubernetes' API gives them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from graft.cluster.profile import amount

Json = Mapping[str, Any]
Amounts = dict[str, Decimal]
"""CPUs, bytes of memory, or devices, by the resource's name."""
INIT = {"cpu": amount("200m"), "memory": amount("256Mi")}
"""What KubeRay's init container of a worker requests: the pod requests at least that much."""


@dataclass(frozen=True)
class PodRequest:
    """Pods of one shape."""

    name: str
    count: int
    requests: Amounts
    """What each pod requests."""
    limits: Amounts
    """What each pod is limited to."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()


def pod_requests(rayjob: Json) -> list[PodRequest]:
    """Return what all pods of a RayJob request: the head, and each group's workers."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    requests = [_request("head", 1, cluster["headGroupSpec"]["template"])]
    for group in cluster["workerGroupSpecs"]:
        name = f"worker of class '{group['groupName']}'"
        requests.append(_request(name, group["replicas"], group["template"], INIT))
    return requests


def _request(
    name: str, count: int, template: Json, least: Mapping[str, Decimal] = MappingProxyType({})
) -> PodRequest:
    """Return what `count` pods of a template request, which is at least `least` beside sidecars."""
    spec = template["spec"]
    # Sidecars, which are the only init containers here, last as long as the pod.
    sidecars, containers = spec["initContainers"], spec["containers"]
    beside = _sum(sidecars, "requests")
    requests = {
        key: max(value, beside.get(key, Decimal(0)) + least.get(key, Decimal(0)))
        for key, value in _sum([*sidecars, *containers], "requests").items()
    }
    limits = _sum([*sidecars, *containers], "limits")
    selector, tolerations = spec.get("nodeSelector", {}), tuple(spec.get("tolerations", ()))
    return PodRequest(name, count, requests, limits, selector, tolerations)


def _sum(containers: Iterable[Json], side: str) -> Amounts:
    """Return what containers request, or are limited to, in all."""
    total: Amounts = {}
    for container in containers:
        for resource, quantity in container["resources"][side].items():
            total[resource] = total.get(resource, Decimal(0)) + amount(quantity)
    return total


def misfits(pods: Iterable[PodRequest], nodes: Iterable[Json]) -> list[str]:
    """Return a line for each kind of pods that the nodes, were they empty, could not hold."""
    pods, nodes = list(pods), list(nodes)
    problems = []
    for pod in pods:
        room = sum(_copies(pod, node) for node in nodes)
        if room < pod.count:
            requests = ", ".join(f"{_shown(r, n)} {r}" for r, n in sorted(pod.requests.items()))
            reason = f"the nodes could hold {room}" if room else _nearest_node(pod, nodes)
            problems.append(f"{pod.count} x {pod.name} ({requests}): {reason}")
    if not problems:
        allocatable: Counter[str] = Counter()
        for node in nodes:
            allocatable.update({key: amount(n) for key, n in node["status"]["allocatable"].items()})
        for resource, total in _total(pods, "requests").items():
            if total > allocatable[resource]:
                problems.append(
                    f"its pods request {_shown(resource, total)} {resource} in all, "
                    f"the nodes have {_shown(resource, Decimal(allocatable[resource]))}"
                )
    return problems


def _total(pods: Iterable[PodRequest], side: str) -> Amounts:
    total: Amounts = {}
    for pod in pods:
        for resource, quantity in getattr(pod, side).items():
            total[resource] = total.get(resource, Decimal(0)) + pod.count * quantity
    return total


def _copies(pod: PodRequest, node: Json) -> int:
    """Return how many pods of this shape an empty node holds."""
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return 0
    taints = node.get("spec", {}).get("taints") or []
    # What admission may add (Kubernetes' ExtendedResourceToleration, as on GKE): whoever requests a
    # device may go where it is the taint.
    devices = [
        {"key": resource, "operator": "Exists", "effect": "NoSchedule"}
        for resource in pod.requests
        if "/" in resource
    ]
    if any(not _tolerated(taint, (*pod.tolerations, *devices)) for taint in taints):
        return 0
    allocatable = node["status"]["allocatable"]
    copies = (int(amount(allocatable.get(r, "0")) // n) for r, n in pod.requests.items() if n)
    return min(copies, default=pod.count)


def _tolerated(taint: Json, tolerations: Iterable[Json]) -> bool:
    if taint["effect"] == "PreferNoSchedule" or taint["key"].startswith("node.kubernetes.io/"):
        return True  # Kubernetes' own taints come and go with a node's state
    return any(
        toleration.get("key") in (None, taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (
            toleration.get("operator") == "Exists"
            or toleration.get("value", "") == taint.get("value", "")
        )
        for toleration in tolerations
    )


def _nearest_node(pod: PodRequest, nodes: list[Json]) -> str:
    """Say what keeps every node from holding a pod; devices, whose names have a /, first."""
    for resource in sorted(pod.requests, key=lambda name: "/" not in name):
        amounts = [amount(node["status"]["allocatable"].get(resource, "0")) for node in nodes]
        best = max(amounts, default=Decimal(0))
        if best < pod.requests[resource]:
            most = f"at most {_shown(resource, best)}" if best else "no"
            return f"a node of this cluster has {most} {resource}"
    return "no node has its labels, or all have taints that it does not tolerate"


def without_cpu_limits(
    pods: Iterable[PodRequest], quotas: Iterable[Json], limit_ranges: Iterable[Json]
) -> list[str]:
    """Return a line for each quota that refuses every pod, since it counts a limit that pods lack.

    Where a quota counts limits of CPU, each container has to have one, which a LimitRange may add.
    Requests, and limits of memory, all our containers have.
    """
    if "cpu" in _total(pods, "limits") or any(
        item["type"] == "Container" and "cpu" in item.get("default", {})
        for limit_range in limit_ranges
        for item in limit_range["spec"]["limits"]
    ):
        return []
    return [
        f"quota {quota['metadata']['name']} counts limits.cpu, which its pods do not set; expected "
        "the chart's pods.cpuLimits, or a LimitRange with a default for cpu in the namespace"
        for quota in _unscoped(quotas)
        if "limits.cpu" in quota.get("status", {}).get("hard", {})
    ]


class OverQuota(NamedTuple):
    """A line for each quota that a job would exceed, with what is in use now."""

    alone: list[str]
    """Those that it would exceed even if nothing else were there."""
    now: list[str]
    """Those that others may leave room in."""


def over_quota(pods: Iterable[PodRequest], quotas: Iterable[Json], rayjobs: int = 1) -> OverQuota:
    """Return which quotas a job would exceed.

    `rayjobs`: how many more RayJobs there are then.
    """
    pods = list(pods)
    requests, limits = _total(pods, "requests"), _total(pods, "limits")
    total = {"pods": Decimal(sum(pod.count for pod in pods))}
    total["count/rayjobs.ray.io"] = Decimal(rayjobs)
    total |= requests | {f"requests.{key}": value for key, value in requests.items()}
    total |= {f"limits.{key}": value for key, value in limits.items()}
    over = OverQuota([], [])
    for quota in _unscoped(quotas):
        status = quota.get("status", {})
        for key, hard in status.get("hard", {}).items():
            used, added = amount(status.get("used", {}).get(key, "0")), total.get(key)
            if added and used + added > amount(hard):
                (over.alone if added > amount(hard) else over.now).append(
                    f"quota {quota['metadata']['name']}: {key} would be "
                    f"{_shown(key, used + added)} of {_shown(key, amount(hard))}, "
                    f"{_shown(key, used)} in use"
                )
    return over


def _unscoped(quotas: Iterable[Json]) -> list[Json]:
    """Return the quotas that hold for all pods: a scope limits one to a priority, say."""
    scopes = ("scopes", "scopeSelector")
    return [quota for quota in quotas if not any(quota.get("spec", {}).get(key) for key in scopes)]


def _shown(resource: str, value: Decimal) -> str:
    in_bytes = resource.endswith(("memory", "ephemeral-storage"))
    return f"{value / 2**30:.1f}Gi" if in_bytes else f"{float(value):g}"
