"""Values for platforms: what each of them needs of the chart."""

import json
import re
from typing import Any

import pytest

from graft.spec import parse_yaml
from helm.rendering import (
    CHART,
    ROOT,
    Object,
    needs_helm,
    needs_schemas,
    only,
    pod_specs,
    rendered,
    run_helm,
)
from helm.schemas import refusals
from helm.test_chart import profile
from helm.test_network import table
from helm.test_serving import applications

FOLDER = CHART / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

pytestmark = needs_helm


def values(example: str) -> dict[str, Any]:
    read: dict[str, Any] = parse_yaml((FOLDER / f"{example}.yaml").read_text(), example)
    return read


def ingress(example: str) -> Object:
    return only(rendered(values(example)), "Ingress")


def test_there_is_one_for_each_platform() -> None:
    assert EXAMPLES == ["eks", "gke", "openshift"]


@needs_schemas
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_and_kuberay_know_every_field(example: str) -> None:
    assert refusals(rendered(values(example))) == []
    done = run_helm("lint", "--strict", "--quiet", CHART, values=values(example))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_load_balancer_gets_an_answer_at_the_root(example: str) -> None:
    """It asks `/` whether a pod is well; and the controller has the certificate."""
    assert "/" in {one["route_prefix"] for one in applications(values(example)).values()}
    assert "secretName" not in json.dumps(ingress(example)["spec"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_gpus_are_a_class(example: str) -> None:
    assert profile(values(example)).classes["gpu"].gpu == "nvidia.com/gpu"


def test_eks() -> None:
    objects, reached = rendered(values("eks")), table(values("eks"))
    assert reached["job worker", "credentials"] == {80}
    assert reached["job worker", "node's dns"] == {53}
    assert profile(values("eks")).store_secret is None
    annotations = ingress("eks")["metadata"]["annotations"]
    assert annotations["alb.ingress.kubernetes.io/target-type"] == "ip"
    assert annotations["alb.ingress.kubernetes.io/certificate-arn"].startswith("arn:aws:acm:")
    (peers,) = [
        rule["from"] for rule in only(objects, "NetworkPolicy", "-clients")["spec"]["ingress"]
    ]
    assert {"ipBlock": {"cidr": "10.0.0.0/16"}} in peers
    for spec in pod_specs(only(objects, "RayService")):  # two fit a node of 20 GB, none Graviton
        assert spec["nodeSelector"]["kubernetes.io/arch"] == "amd64"
        assert spec["containers"][0]["resources"]["requests"]["ephemeral-storage"] == "6Gi"


def test_gke() -> None:
    objects = rendered(values("gke"))
    assert profile(values("gke")).classes["gpu"].tolerations == ()
    service = only(objects, "RayService")["spec"]["serveService"]
    neg = service["metadata"]["annotations"]["cloud.google.com/neg"]
    assert json.loads(neg) == {"ingress": True}
    annotations = ingress("gke")["metadata"]["annotations"]
    assert annotations["networking.gke.io/managed-certificates"]
    # GKE takes the class from the annotation alone.
    assert annotations["kubernetes.io/ingress.class"] == "gce"
    assert "ingressClassName" not in ingress("gke")["spec"]
    (peers,) = [
        rule["from"] for rule in only(objects, "NetworkPolicy", "-clients")["spec"]["ingress"]
    ]
    for block in ("35.191.0.0/16", "130.211.0.0/22"):
        assert {"ipBlock": {"cidr": block}} in peers


def test_the_image_finds_gkes_drivers_and_runs_as_any_user() -> None:
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    (path,) = re.findall(r"LD_LIBRARY_PATH=(\S+)", image)
    assert "/usr/local/nvidia/lib64" in path.split(":")
    (home,) = re.findall(r"^WORKDIR (/home\S+)", image, re.MULTILINE)
    assert f"chmod 755 {home}" in image  # Debian makes it for its owner alone
    assert re.search(r"^ +USER=\w+$", image, re.MULTILINE)  # getpass asks it before /etc/passwd


def test_openshift() -> None:
    objects = rendered(values("openshift"))
    for one in objects:
        for spec in pod_specs(one):
            assert not spec["securityContext"].keys() & {"runAsUser", "runAsGroup", "fsGroup"}
    assert profile(values("openshift")).pods.run_as_user is None
    (dns, *_) = only(objects, "NetworkPolicy", "-all")["spec"]["egress"]
    assert {one["port"] for one in dns["ports"]} == {5353}
    assert dns["to"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "openshift-dns"
    }
    assert ingress("openshift")["spec"]["tls"] == [{}]  # else its Route has no TLS
    (peers,) = [
        rule["from"] for rule in only(objects, "NetworkPolicy", "-clients")["spec"]["ingress"]
    ]
    routers = {"kubernetes.io/metadata.name": "openshift-ingress"}
    assert {"namespaceSelector": {"matchLabels": routers}} in peers
