"""What all pods have in common: those of jobs, the shared cluster, serving and `helm test`."""

import json
from typing import Any

import pytest

from colours import colour_spec
from graft.cluster.profile import amount
from graft.cluster.rayjob_manifest import Submission, rayjob
from helm.rendering import (
    CASES,
    EVERYTHING,
    LEAST,
    PODS,
    SERVING,
    Object,
    needs_helm,
    needs_schemas,
    only,
    rendered,
)
from helm.schemas import refusals
from helm.test_chart import NO_SCHEMA, profile

pytestmark = needs_helm
EVERY_POD = {"rayCluster": {"enabled": True}, "serving": SERVING}


def templates(node: Any) -> list[Object]:
    """Return all that is metadata and spec of a pod, in an object."""
    children = list(node.values() if isinstance(node, dict) else node)
    below = [
        one for child in children if isinstance(child, (dict, list)) for one in templates(child)
    ]
    is_template = isinstance(node, dict) and "containers" in node.get("spec", ())
    return [node, *below] if is_template else below


def every_pod(values: dict[str, Any]) -> list[Object]:
    """Return the templates of all pods that a release has, of a job, too."""
    job = rayjob(Submission("one", colour_spec()), profile(values))
    found = [one for made in [*rendered(values), job] for one in templates(made)]
    assert len(found) >= 7  # head and worker of three clusters, and the test
    return found


def containers(spec: Object) -> list[Object]:
    """Return a pod's containers, sidecars too."""
    return [*spec["containers"], *spec.get("initContainers", [])]


def ray_pods(values: dict[str, Any]) -> list[tuple[str, Object]]:
    """Return start parameters and template of all Ray pods, by what they are."""
    job = rayjob(Submission("one", colour_spec()), profile(values))["spec"]["rayClusterSpec"]
    objects = rendered(values)
    shared = only(objects, "RayCluster")["spec"]
    serving = only(objects, "RayService")["spec"]["rayClusterConfig"]
    return [
        (node, group)
        for cluster in (job, shared, serving)
        for node, group in (
            ("head", cluster["headGroupSpec"]),
            ("worker", cluster["workerGroupSpecs"][0]),
        )
    ]


def test_every_pod_has_what_is_set_for_all() -> None:
    for template in every_pod(LEAST | EVERY_POD | {"pods": PODS}):
        assert PODS["labels"].items() <= template["metadata"]["labels"].items()
        assert PODS["annotations"].items() <= template["metadata"]["annotations"].items()
        spec = template["spec"]
        assert spec["schedulerName"] == "volcano"
        assert spec["affinity"] == PODS["affinity"]
        (spread,) = spec["topologySpreadConstraints"]
        assert spread["topologyKey"] == "topology.kubernetes.io/zone"
        counted = spread["labelSelector"]["matchLabels"]
        assert counted
        assert counted.items() <= template["metadata"]["labels"].items()
        for container in containers(spec):
            resources = container["resources"]
            assert amount(resources["limits"]["cpu"]) >= amount(resources["requests"]["cpu"])
            assert container["envFrom"][0] == {"configMapRef": {"name": "site"}}
            variables = {one["name"]: one for one in container["env"]}
            assert len(variables) == len(container["env"])
            assert [variables[one["name"]] for one in PODS["env"]] == PODS["env"]
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
                assert variables[name]["value"] == "http://proxy.example:3128"
            for name in ("NO_PROXY", "no_proxy"):  # probes and Ray's own nodes
                assert variables[name]["value"] == "localhost,127.0.0.1,.svc,.cluster.local"


def test_without_a_proxy_no_pod_hears_of_one() -> None:
    for template in every_pod(LEAST | EVERY_POD):
        variables = [one for c in containers(template["spec"]) for one in c["env"]]
        names = {one["name"].lower() for one in variables}
        assert not names & {"http_proxy", "https_proxy", "no_proxy"}


def test_secrets_of_the_store_win_over_what_is_set_for_all() -> None:
    values = LEAST | EVERY_POD | {"pods": PODS, "store": CASES["serving"]["store"]}
    for template in every_pod(values):
        for container in containers(template["spec"]):
            if {"name": "GRAFT_STORE", "value": "s3://bucket/prefix"} in container["env"]:
                assert container["envFrom"][-1] == {"secretRef": {"name": "graft-s3"}}


def test_a_platform_may_choose_the_user_and_the_service_account() -> None:
    values = CASES["platform's user"] | EVERY_POD
    for template in every_pod(values):
        assert template["spec"]["serviceAccountName"] == "default"
        assert template["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    assert [one for one in rendered(values) if one["kind"] == "ServiceAccount"] == []


def test_a_directory_store_is_a_volume_of_every_pod_that_uses_it() -> None:
    values = CASES["directory"] | EVERY_POD
    for template in every_pod(values):
        volumes = {one["name"]: one for one in template["spec"]["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"] == {"claimName": "vision"}
        for container in containers(template["spec"]):
            mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
            uses_store = {"name": "GRAFT_STORE", "value": "/store"} in container["env"]
            assert mounts.get("/store") == ("store" if uses_store else None)
            assert uses_store or container["name"] in ("submitter", "serving")


def test_a_class_may_have_a_runtime() -> None:
    values = CASES["other class"] | EVERY_POD
    values["classes"]["gpu-a100"] |= {"runtimeClassName": "nvidia"}
    for node, group in ray_pods(values):
        runtime = group["template"]["spec"].get("runtimeClassName")
        assert runtime == ("nvidia" if node == "worker" else None)


@pytest.mark.parametrize("shared", ["128Mi", "1.5Gi", "2G", "100M"])
def test_rays_objects_fit_into_shared_memory_everywhere(shared: str) -> None:
    sizes = {"memory": "4Gi", "sharedMemory": shared}
    values = LEAST | EVERY_POD | {"classes": {"cpu": sizes}, "head": sizes}
    if shared == "100M":  # 75 MB, and Ray wants 75 MiB
        with pytest.raises(AssertionError, match="too little for Ray's objects"):
            rendered(values)
        return
    stored = {group["rayStartParams"]["object-store-memory"] for _, group in ray_pods(values)}
    (objects,) = stored
    expected = {"128Mi": 96 << 20, "1.5Gi": 1152 << 20, "2G": 1_500_000_000}
    assert int(objects) == expected[shared]
    for _, group in ray_pods(values):
        volumes = {one["name"]: one for one in group["template"]["spec"]["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert amount(volumes["shm"]["emptyDir"]["sizeLimit"]) == amount(shared)
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in mounts


def test_all_that_a_pod_writes_is_limited_and_requested_of_the_disk() -> None:
    for template in every_pod(EVERYTHING):
        for volume in template["spec"]["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), volume
    values = LEAST | EVERY_POD | {"classes": {"cpu": {"cache": "20Gi", "tmp": "7Gi"}}}
    for node, group in ray_pods(values):
        requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert requests["ephemeral-storage"] == {"head": "15Gi", "worker": "27Gi"}[node]


@needs_schemas
def test_names_may_be_numbers() -> None:
    """`2024` is a name like others: the release's, the namespace's and every one in values."""
    text = json.dumps(EVERYTHING | {"pods": PODS | {"schedulerName": "7"}})
    for name in (
        *("graft-s3", "pull", "low", "team", "high", "redis", "nginx", "public", "https", "hub"),
        *("vision-tls", "vision.example", "store", "kuberay-operator", "ingress", "nvidia", "site"),
    ):
        text = text.replace(f': "{name}"', ': "7"').replace(f'["{name}"]', '["7"]')
    values = json.loads(text)
    values["serviceAccount"]["name"] = values["serving"]["model"] = "7"
    values["networkPolicy"] |= {"dns": {"namespace": "7"}, "monitoringNamespace": "7"}
    values["serving"]["httpRoute"]["gatewayNamespace"] = "7"
    objects = rendered(values, "--namespace", "2024", release="2024")
    assert only(objects, "RayService")["metadata"]["name"] == "graft-2024"
    assert refusals(one for one in objects if one["kind"] not in NO_SCHEMA) == []
    assert (
        only(objects, "PodMonitor")["spec"]["selector"]["matchLabels"]["graft.dev/release"]
        == "2024"
    )
