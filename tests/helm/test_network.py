"""Who may talk to whom, on which ports: the whole table, from the policies as rendered."""

from itertools import product
from typing import Any

from colours import colour_spec
from graft.cluster.profile import Profile
from graft.cluster.rayjob_manifest import Submission, rayjob
from graft.spec import parse_yaml
from helm.policies import End, passes
from helm.rendering import CASES, LEAST, NAMESPACE, SERVING, Object, needs_helm, only, rendered

PORTS = (53, 80, 443, 6379, 6443, 8000, 8080, 8265, 9000, 10001, 40000)
ALL = set(PORTS)
"""The last one stands for what gloo and NCCL take."""
Table = dict[tuple[str, str], set[int]]
"""Ports by source and target."""
CLUSTERS = ("job", "shared", "serving")

OUTSIDE = {
    "operator": End("kuberay-operator", {"app.kubernetes.io/component": "kuberay-operator"}),
    "operator's neighbour": End("kuberay-operator", {}),
    "dns": End("kube-system", {"k8s-app": "kube-dns"}),
    "prometheus": End("monitoring", {}),
    "neighbour": End(NAMESPACE, {}),
    "stranger": End("elsewhere", {}),
    "ingress": End("ingress", {}),
    "store": End("store", {}),
    "internet": End(address="203.0.113.7"),
    "node's dns": End(address="169.254.20.10"),
    "credentials": End(address="169.254.170.23"),
    "node's metadata": End(address="169.254.169.254"),
    "node's metadata by IPv6": End(address="fd00:ec2::254"),
    "internet by IPv6": End(address="2001:db8::7"),
}


def pods(objects: list[Object]) -> dict[str, End]:
    """One pod of each sort that there can be, with the labels that it has in a cluster."""
    text = only(objects, "ConfigMap", "-profile")["data"]["profile.yaml"]
    profile = Profile.model_validate(parse_yaml(text, "profile"))
    job = rayjob(Submission("one", colour_spec()), profile)["spec"]
    found: dict[str, dict[str, str]] = {}
    clusters = {"job": job["rayClusterSpec"]}
    for one in objects:
        if one["kind"] == "RayCluster":
            clusters["shared"] = one["spec"]
        if one["kind"] == "RayService":
            clusters["serving"] = one["spec"]["rayClusterConfig"]
        if one["kind"] == "Pod":
            found["test"] = one["metadata"]["labels"]
            # Of a job that an earlier chart has sent.
            found["submitter"] = found["test"] | {"graft.dev/role": "job"}
    for name, cluster in clusters.items():
        ends = {"head": cluster["headGroupSpec"], "worker": cluster["workerGroupSpecs"][0]}
        for node, group in ends.items():
            kuberay = {"ray.io/is-ray-node": "yes", "ray.io/node-type": node}
            found[f"{name} {node}"] = group["template"]["metadata"]["labels"] | kuberay
    return {name: End(NAMESPACE, labels) for name, labels in found.items()}


def table(values: dict[str, Any]) -> Table:
    """What is let through where one of both is a pod of ours."""
    objects = rendered(values)
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for policy in policies:
        policy["metadata"]["namespace"] = NAMESPACE
    ours = pods(objects)
    ends = ours | OUTSIDE
    made = {
        (source, target): {
            port for port in PORTS if passes(policies, ends[source], ends[target], port)
        }
        for source, target in product(ends, ends)
        if source != target and (source in ours or target in ours)
    }
    return {pair: ports for pair, ports in made.items() if ports}


def expected(rows: Table, ours: list[str]) -> Table:
    """A table with what every pod of ours may reach added."""
    for name in ours:
        rows = rows | {(name, "dns"): {53}, (name, "internet"): {443}}
        rows |= {(name, "internet by IPv6"): {443}}
    return rows


def together(cluster: str) -> Table:
    head, worker = f"{cluster} head", f"{cluster} worker"
    return {(head, worker): ALL, (worker, head): ALL}


JOB = {(name, "job head"): {8265} for name in ("operator", "submitter")} | together("job")
JOB_PODS = ["job head", "job worker", "test", "submitter"]


@needs_helm
def test_a_job_reaches_itself_dns_and_the_store_and_only_the_operator_reaches_it() -> None:
    assert table(LEAST) == expected(JOB, JOB_PODS)


@needs_helm
def test_the_served_model_is_open_to_its_namespace_at_its_port_alone() -> None:
    """To its own namespace, where pods of jobs have no way out to it."""
    rows = JOB | together("serving")
    for name, node in product(("neighbour", "test"), ("head", "worker")):
        rows[name, f"serving {node}"] = {8000}
    rows["operator", "serving head"] = {8265}
    assert table(LEAST | {"serving": SERVING}) == expected(
        rows, [*JOB_PODS, "serving head", "serving worker"]
    )


@needs_helm
def test_with_everything_on() -> None:
    """Clients are named, the store and Redis run in the cluster, Prometheus reads."""
    nodes = [f"{cluster} {node}" for cluster, node in product(CLUSTERS, ("head", "worker"))]
    rows = JOB | together("shared") | together("serving")
    for name in (*nodes, "test", "submitter"):
        rows[name, "dns"] = {53}
        rows[name, "store"] = {9000}
    for name in nodes:
        rows["prometheus", name] = {8080}
    for node in ("serving head", "serving worker"):
        # Redis; networkPolicy.redis names no namespace.
        rows[node, "internet"] = rows[node, "internet by IPv6"] = {6379}
        for name in ("ingress", "neighbour", "test"):
            rows[name, node] = {8000}
    rows["operator", "shared head"] = {8265}
    rows["operator", "serving head"] = {8265}
    assert table(CASES["everything"]) == rows


@needs_helm
def test_what_lies_at_a_nodes_own_addresses_is_reached_where_it_is_named() -> None:
    dns, credentials = {"cidrs": ["169.254.20.10/32"]}, {"cidrs": ["169.254.170.23/32"]}
    rows = expected(JOB, JOB_PODS)
    for name in JOB_PODS:
        rows |= {(name, "node's dns"): {53}, (name, "credentials"): {80}}
    policies = {"dns": dns, "credentials": credentials}
    assert table(LEAST | {"networkPolicy": policies}) == rows
    del policies["dns"]
    policies["credentials"] = credentials | {"port": 8080}
    assert table(LEAST | {"networkPolicy": policies})["test", "credentials"] == {8080}


@needs_helm
def test_without_policies_nothing_is_held_up() -> None:
    assert table(CASES["open"])["stranger", "job head"] == ALL


@needs_helm
def test_the_stores_port_is_the_one_of_its_url_or_the_one_given() -> None:
    for store, policy, port in [
        ({"endpoint": "http://minio.example"}, {}, 80),
        ({"endpoint": "https://minio.example/"}, {}, 443),
        ({"endpoint": "http://minio.example:9000"}, {}, 9000),
        ({"endpoint": "http://minio.example:9000"}, {"port": 6443}, 6443),
    ]:
        values = {"store": LEAST["store"] | store, "networkPolicy": {"store": policy}}
        assert table(values)["job head", "internet"] == {port}


@needs_helm
def test_clients_elsewhere_reach_serving_where_they_are_named() -> None:
    named = {"clientNamespaces": ["elsewhere"], "clientCidrs": ["203.0.113.0/24"]}
    open_to = table(LEAST | {"serving": SERVING, "networkPolicy": named})
    closed_to = table(LEAST | {"serving": SERVING})
    for client in ("stranger", "internet"):
        assert open_to[client, "serving worker"] == {8000}
        assert (client, "serving worker") not in closed_to


@needs_helm
def test_dns_is_asked_at_its_pods_port() -> None:
    found = table(LEAST | {"networkPolicy": {"dns": {"namespace": "store", "port": 6443}}})
    assert found["job worker", "store"] == {6443}
    assert ("job worker", "dns") not in found


@needs_helm
def test_a_proxy_is_reached_at_its_urls_port_where_there_is_one() -> None:
    proxy = {"http": "http://proxy.example:8080", "https": "http://proxy.example:10001"}
    for policy, target, ports in [
        ({}, "internet", {443, 8080, 10001}),
        ({"namespace": "store"}, "store", {8080, 10001}),
        ({"namespace": "store", "port": 9000}, "store", {9000}),
    ]:
        values = LEAST | {"pods": {"proxy": proxy}, "networkPolicy": {"proxy": policy}}
        assert table(values)["job worker", target] == ports
    secret = LEAST | {"networkPolicy": {"proxy": {"port": 8080}}}  # it has the URLs
    assert table(secret)["job worker", "internet"] == {443, 8080}
