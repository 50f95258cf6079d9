"""Whether a cluster could ever run a job: told before it is sent; pure.

Nodes, quotas and manifests come as Kubernetes' API gives them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from graft.cluster.profile import amount

Json = Mapping[str, Any]
Amounts = dict[str, Decimal]
"""By resource: CPUs, bytes of memory, devices."""
INIT = {"cpu": amount("200m"), "memory": amount("256Mi")}
"""What the container requests that KubeRay puts before a worker's: a pod takes as much at least."""


@dataclass(frozen=True)
class PodRequest:
    """Pods of one shape."""

    name: str
    count: int
    requests: Amounts
    """Of a pod."""
    limits: Amounts
    """Of a pod."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()


def pod_requests(rayjob: Json) -> list[PodRequest]:
    """Return what all pods of a RayJob request: the head, each group's workers, the submitter."""
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    found = [_request("head", 1, cluster["headGroupSpec"]["template"])]
    for group in cluster["workerGroupSpecs"]:
        name = f"worker of class '{group['groupName']}'"
        found.append(_request(name, group["replicas"], group["template"], INIT))
    found.append(_request("submitter", 1, spec["submitterPodTemplate"]))
    return found


def _request(
    name: str, count: int, template: Json, least: Mapping[str, Decimal] = MappingProxyType({})
) -> PodRequest:
    spec = template["spec"]
    sums: dict[str, Amounts] = {}
    for side in ("requests", "limits"):
        total: Amounts = {}
        for container in spec["containers"]:
            for resource, quantity in container["resources"][side].items():
                total[resource] = total.get(resource, Decimal(0)) + amount(quantity)
        sums[side] = total
    requests = {key: max(value, least.get(key, value)) for key, value in sums["requests"].items()}
    selector, tolerations = spec.get("nodeSelector", {}), tuple(spec.get("tolerations", ()))
    return PodRequest(name, count, requests, sums["limits"], selector, tolerations)


def misfits(pods: Iterable[PodRequest], nodes: Iterable[Json]) -> list[str]:
    """Say which pods the nodes could never hold, were they empty; a line each."""
    pods, nodes = list(pods), list(nodes)
    problems = []
    for pod in pods:
        room = sum(_copies(pod, node) for node in nodes)
        if room < pod.count:
            wanted = ", ".join(f"{_shown(r, n)} {r}" for r, n in sorted(pod.requests.items()))
            held = f"the nodes could hold {room}" if room else _nearest_node(pod, nodes)
            problems.append(f"{pod.count} x {pod.name} ({wanted}): {held}")
    if not problems:
        has: Counter[str] = Counter()
        for node in nodes:
            has.update({key: amount(n) for key, n in node["status"]["allocatable"].items()})
        for resource, wanted_in_all in _total(pods, "requests").items():
            if wanted_in_all > has[resource]:
                problems.append(
                    f"its pods request {_shown(resource, wanted_in_all)} {resource} in all, "
                    f"the nodes have {_shown(resource, Decimal(has[resource]))}"
                )
    return problems


def _total(pods: Iterable[PodRequest], side: str) -> Amounts:
    total: Amounts = {}
    for pod in pods:
        for resource, quantity in getattr(pod, side).items():
            total[resource] = total.get(resource, Decimal(0)) + pod.count * quantity
    return total


def _copies(pod: PodRequest, node: Json) -> int:
    """Return how many pods of a shape an empty node holds."""
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return 0
    taints = node.get("spec", {}).get("taints") or []
    if any(not _tolerated(taint, pod.tolerations) for taint in taints):
        return 0
    has = node["status"]["allocatable"]
    wanted = {resource: quantity for resource, quantity in pod.requests.items() if quantity}
    return min((int(amount(has.get(r, "0")) // n) for r, n in wanted.items()), default=pod.count)


def _tolerated(taint: Json, tolerations: Iterable[Json]) -> bool:
    if taint["effect"] == "PreferNoSchedule" or taint["key"].startswith("node.kubernetes.io/"):
        return True  # the latter come and go with a node's state
    return any(
        one.get("key") in (None, taint["key"])
        and one.get("effect") in (None, "", taint["effect"])
        and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
        for one in tolerations
    )


def _nearest_node(pod: PodRequest, nodes: list[Json]) -> str:
    """Say what the nodes have of what a pod wants; devices, whose names have a /, first."""
    for resource in sorted(pod.requests, key=lambda name: "/" not in name):
        each = [amount(node["status"]["allocatable"].get(resource, "0")) for node in nodes]
        best = max(each, default=Decimal(0))
        if best < pod.requests[resource]:
            has = f"at most {_shown(resource, best)}" if best else "no"
            return f"a node of this cluster has {has} {resource}"
    return "no node has its labels, or all have taints that it does not tolerate"


def without_limits(
    pods: Iterable[PodRequest], quotas: Iterable[Json], limit_ranges: Iterable[Json]
) -> list[str]:
    """Say which quotas refuse every pod, since it lacks a limit that they count; a line each.

    Kubernetes wants CPU and memory of each container, its own or a LimitRange's, where a quota
    counts them. Requests ours have.
    """
    given = set(_total(pods, "limits"))
    for one in limit_ranges:
        for item in one["spec"]["limits"]:
            if item["type"] == "Container":
                given |= set(item.get("default", {}))
    return [
        f"quota {quota['metadata']['name']} counts limits.{resource}, which its pods do not set; "
        f"a LimitRange with a default for {resource} is missing in the namespace"
        for quota in _unscoped(quotas)
        for resource in ("cpu", "memory")
        if f"limits.{resource}" in quota.get("status", {}).get("hard", {}) and resource not in given
    ]


def over_quota(pods: Iterable[PodRequest], quotas: Iterable[Json]) -> list[str]:
    """Say which quotas a job would go beyond, as they are used now; a line each."""
    pods = list(pods)
    requests, limits = _total(pods, "requests"), _total(pods, "limits")
    total = {"pods": Decimal(sum(pod.count for pod in pods)), "count/rayjobs.ray.io": Decimal(1)}
    total |= requests | {f"requests.{key}": value for key, value in requests.items()}
    total |= {f"limits.{key}": value for key, value in limits.items()}
    problems = []
    for quota in _unscoped(quotas):
        status = quota.get("status", {})
        for key, hard in status.get("hard", {}).items():
            used, wanted = amount(status.get("used", {}).get(key, "0")), total.get(key)
            if wanted and used + wanted > amount(hard):
                problems.append(
                    f"quota {quota['metadata']['name']}: {key} would be "
                    f"{_shown(key, used + wanted)} of {_shown(key, amount(hard))}, "
                    f"{_shown(key, used)} in use"
                )
    return problems


def _unscoped(quotas: Iterable[Json]) -> list[Json]:
    """Return the quotas but those that hold for some pods only, of a priority, say."""
    specs = [(quota, quota.get("spec", {})) for quota in quotas]
    return [one for one, spec in specs if not spec.get("scopes") and not spec.get("scopeSelector")]


def _shown(resource: str, value: Decimal) -> str:
    in_bytes = resource.endswith(("memory", "ephemeral-storage"))
    return f"{value / 2**30:.1f}Gi" if in_bytes else f"{float(value):g}"
