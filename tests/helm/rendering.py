"""The chart, rendered by helm without a cluster, and what Kubernetes would make of it."""

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.schemas import LOCATION, SOURCES, schema_folder
from programs import VERSIONS, folder, program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "graft"
HELM, KUBECONFORM = program("helm"), program("kubeconform")
RELEASE, NAMESPACE = "graft", "team"

Object = dict[str, Any]
Values = dict[str, Any]

needs_helm = pytest.mark.skipif(not HELM.exists(), reason="no helm here: `make programs` builds it")
needs_schemas = pytest.mark.skipif(
    not KUBECONFORM.exists() or not all(folder(name).is_dir() for name in SOURCES),
    reason="no kubeconform and schemas here: `make programs` builds them",
)

LEAST: Values = {"store": {"uri": "s3://bucket/prefix"}}
STORE = {"uri": "s3://bucket/prefix", "secret": "graft-s3"}
SERVING = {"enabled": True, "model": "ants-bees"}
GPU = {
    "cpu": "4",
    "memory": "64Gi",
    "sharedMemory": "16Gi",
    "cache": "40Gi",
    "gpu": "nvidia.com/gpu",
    "autoscaled": True,
    "nodeSelector": {"gpu": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}
DIGEST = f"sha256:{'0' * 64}"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
EVERYTHING: Values = {
    "image": {"tag": "2", "pullSecrets": ["pull"], "allowed": ["registry.example/graft:*"]},
    "store": STORE | {"endpoint": "https://minio.store.svc:9000", "caBundle": CERTIFICATE},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/graft"}},
    "submitters": [
        {"kind": "Group", "name": "vision"},
        {"kind": "ServiceAccount", "name": "pipeline", "namespace": "ci"},
    ],
    "classes": {"gpu-a100": GPU},
    "head": {
        "cache": "5Gi",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
    },
    "jobs": {"priorityClassName": "low", "queue": "team", "labels": {"cost-centre": "42"}},
    "rayCluster": {"enabled": True, "class": "gpu-a100", "cpusPerWorker": 2, "gpusPerWorker": 1},
    "serving": SERVING
    | {
        "priorityClassName": "high",
        "redis": {"address": "redis.cache.svc:6379", "secret": "redis"},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "vision.example",
            "tlsSecret": "vision-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "20m"},
        },
        "httpRoute": {
            "enabled": True,
            "host": "vision.example",
            "gateway": "public",
            "listener": "https",
        },
    },
    "networkPolicy": {
        "store": {"namespace": "store"},
        "operatorNamespace": "kuberay-operator",
        "clientNamespaces": ["ingress"],
    },
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
}
CASES: dict[str, Values] = {
    "least": LEAST,
    "everything": EVERYTHING,
    "submitters": {"store": STORE, "submitters": [{"kind": "User", "name": "a@b.example"}]},
    "digest": LEAST | {"image": {"tag": DIGEST}},
    "ca": {"store": STORE | {"caConfigMap": "corporate"}},
    "shared": {"store": STORE, "rayCluster": {"enabled": True, "workers": 3}},
    "serving": {"store": STORE, "serving": SERVING},
    "one replica": {"store": STORE, "serving": SERVING | {"replicas": 1}},
    "open": {"store": STORE, "networkPolicy": {"enabled": False}},
    "other class": LEAST | {"classes": {"cpu": None, "gpu-a100": GPU}, "defaultClass": "gpu-a100"},
    "class called like a number": LEAST
    | {"classes": {"1": GPU}, "defaultClass": "1", "rayCluster": {"enabled": True}},
    "tiny": {
        "store": STORE,
        "classes": {"cpu": {"cpu": "250m", "memory": "1Gi", "sharedMemory": "256Mi"}},
        "head": {"cpu": "100m", "memory": "2Gi"},
        "serving": SERVING | {"cpusPerReplica": 3},
    },
}


def run_helm(*arguments: str | Path, values: Values) -> subprocess.CompletedProcess[str]:
    """Run helm with values on its standard input."""
    return subprocess.run(
        [HELM, *arguments, "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
    )


def rendered_text(values: Values, *options: str, release: str = RELEASE) -> str:
    """Return what `helm template` prints."""
    return _template(json.dumps(values), release, options)


@functools.cache
def _template(values: str, release: str, options: tuple[str, ...]) -> str:
    command = ["template", release, CHART, "--namespace", NAMESPACE]
    version = ["--kube-version", VERSIONS["KUBERNETES"]]
    done = run_helm(*command, *version, *options, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(values: Values, *options: str, release: str = RELEASE) -> list[Object]:
    """Return the chart's objects."""
    text = rendered_text(values, *options, release=release)
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def only(objects: list[Object], kind: str, ending: str = "") -> Object:
    """Return the one object of a kind whose name ends so."""
    (found,) = [
        one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(ending)
    ]
    return found


def refusals(text: str, skip: str = "") -> list[str]:
    """Return what Kubernetes, with KubeRay, would refuse in some YAML."""
    location = f"{schema_folder()}/{LOCATION}"
    done = subprocess.run(
        [KUBECONFORM, "-strict", "-output", "json", "-skip", skip, "-schema-location", location],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    refused = json.loads(done.stdout)["resources"]
    return [f"{one['kind']} {one['name']}: {one['msg']}" for one in refused]


def pod_specs(node: Any) -> Iterator[Object]:
    """Yield the spec of every pod in an object."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for child in node.values():
            yield from pod_specs(child)
    elif isinstance(node, list):
        for child in node:
            yield from pod_specs(child)
