"""The chart, rendered by helm without a cluster, and what Kubernetes would make of it."""

import functools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.program import WHEEL, helm
from helm.schemas import SOURCES
from programs import VERSIONS, folder

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "graft"
HELM = helm()
RELEASE, NAMESPACE = "graft", "team"

Object = dict[str, Any]
Values = dict[str, Any]

needs_helm = pytest.mark.skipif(
    not HELM,
    reason=f"no helm {VERSIONS['HELM']} here: install {WHEEL}, or build it with "
    "`python3 tests/programs.py helm`",
)
needs_schemas = pytest.mark.skipif(
    not all(folder(name).is_dir() for name in SOURCES),
    reason="no schemas here: `make programs` fetches them with Go",
)

LEAST: Values = {"store": {"uri": "s3://bucket/prefix"}}
STORE = {"uri": "s3://bucket/prefix", "secret": "graft-s3"}
SERVING = {"enabled": True, "model": "ants-bees", "keysSecret": "graft-keys"}
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
PODS = {
    "labels": {"istio.io/dataplane-mode": "none", "app.kubernetes.io/part-of": "vision"},
    "cpuLimits": True,
    "annotations": {"sidecar.istio.io/inject": "false"},
    "proxy": {"http": "http://proxy.example:3128", "https": "http://proxy.example:3128"},
    "env": [
        {"name": "RAY_BACKEND_LOG_LEVEL", "value": "warning"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "site"}}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}
                ]
            }
        }
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
    "schedulerName": "volcano",
}
MODELS = {
    "enabled": True,
    "noAuth": True,
    "models": [
        {"name": "ants-bees", "route": "/"},
        {"name": "cats", "alias": "candidate", "replicas": {"min": 1, "max": 3}},
        {"name": "dogs", "class": "gpu-a100", "replicas": {"min": 1}},
    ],
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
    "pods": PODS,
    "classes": {"gpu-a100": GPU | {"runtimeClassName": "nvidia", "tmp": "20Gi"}},
    "head": {
        "cache": "5Gi",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
    },
    "jobs": {
        "priorityClassName": "low",
        "queue": "team",
        "labels": {"cost-centre": "42", "ray.io/gang-scheduling-enabled": "true"},
    },
    "rayCluster": {
        "enabled": True,
        "class": "gpu-a100",
        "cpusPerWorker": 2,
        "gpusPerWorker": 1,
        "queue": "shared",
    },
    "serving": SERVING
    | {
        "priorityClassName": "high",
        "queue": "online",
        "redis": {"address": "redis.cache.svc:6379", "secret": "redis"},
        "service": {"annotations": {"cloud.google.com/neg": '{"ingress": true}'}},
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
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
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
    "directory": {"store": {"uri": "/store", "persistentVolumeClaim": "vision"}},
    "models": {"store": STORE, "classes": {"gpu-a100": GPU}, "serving": MODELS},
    "platform's user": LEAST
    | {"pods": {"runAsUser": None}, "serviceAccount": {"create": False, "name": "default"}},
    "no jobs": {"store": STORE, "jobs": {"enabled": False}, "serving": SERVING},
    "heads stay": {
        "store": STORE,
        "podDisruptionBudget": {"heads": True},
        "serving": SERVING,
        "rayCluster": {"enabled": True},
    },
    "tiny": {
        "store": STORE,
        "classes": {"cpu": {"cpu": "250m", "memory": "1Gi", "sharedMemory": "256Mi"}},
        "head": {"cpu": "100m", "memory": "2Gi"},
        "serving": SERVING | {"cpusPerReplica": 3},
    },
}


def run_helm(
    *arguments: str | Path, values: Values | None = None, program: Path | None = HELM
) -> subprocess.CompletedProcess[str]:
    """Run helm, with values, if any, on its standard input."""
    assert program
    return subprocess.run(
        [program, *arguments, *(() if values is None else ("--values", "-"))],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"GOGC": "off", "GOMAXPROCS": "1"},  # a third less CPU time
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
    return objects_of(rendered_text(values, *options, release=release))


def objects_of(text: str) -> list[Object]:
    """Return the objects of some YAML, read as Kubernetes reads it."""
    return [one for one in yaml.load_all(text, _Loader) if one]


class _Loader(yaml.CSafeLoader):
    """Takes no key twice, and 1e3 for a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Object:
        keys = [key.value for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(
                None, None, f"a key stands twice among {keys}", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def only(objects: list[Object], kind: str, ending: str = "") -> Object:
    """Return the one object of a kind whose name ends so."""
    (found,) = [
        one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(ending)
    ]
    return found


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
