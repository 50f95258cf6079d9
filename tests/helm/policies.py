"""What NetworkPolicies let through, as Kubernetes' documentation says they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, or an address outside of the cluster."""

    namespace: str | None = None
    """null: outside."""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "10.244.0.7"


def passes(
    policies: list[Json], source: End, target: End, port: int, protocol: str = "TCP"
) -> bool:
    """Whether a connection is let through: out of its source, and into its target."""
    out = _permits(policies, "egress", source, target, port, protocol)
    return out and _permits(policies, "ingress", target, source, port, protocol)


def _permits(
    policies: list[Json], direction: str, pod: End, peer: End, port: int, protocol: str
) -> bool:
    rules = [
        policy["spec"].get(direction) or []
        for policy in policies
        if pod.namespace == policy["metadata"]["namespace"]
        and direction.title() in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not rules:
        return True  # no policy is about this pod
    side = {"egress": "to", "ingress": "from"}[direction]
    return any(
        _has_port(rule.get("ports"), port, protocol)
        and (not rule.get(side) or any(_is_peer(one, peer, pod.namespace) for one in rule[side]))
        for several in rules
        for rule in several
    )


def _has_port(ports: list[Json] | None, port: int, protocol: str) -> bool:
    return not ports or any((one["protocol"], one["port"]) == (protocol, port) for one in ports)


def _is_peer(peer: Json, end: End, own_namespace: str | None) -> bool:
    if "ipBlock" in peer:
        # Of pods a block says nothing that all network plugins agree on.
        block = peer["ipBlock"]
        return (
            end.namespace is None
            and _within(end.address, block["cidr"])
            and not any(_within(end.address, one) for one in block.get("except", ()))
        )
    if end.namespace is None:
        return False
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": end.namespace}
        if not _selects(peer["namespaceSelector"], name):
            return False
    elif end.namespace != own_namespace:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _within(address: str, block: str) -> bool:
    return ip_address(address) in ip_network(block)


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "DoesNotExist"
        if one["key"] in labels:
            return False
    return True
