"""Values that the chart refuses, and the key that it names."""

from typing import Any

import pytest

from helm.rendering import CHART, LEAST, SERVING, needs_helm, run_helm

STORE: dict[str, Any] = LEAST["store"]
ROUTE = {"enabled": True, "host": "a.example", "gateway": "public", "listener": "https"}


def with_store(**changes: Any) -> dict[str, Any]:
    return {"store": STORE | changes}


def served(*models: dict[str, Any]) -> dict[str, Any]:
    return {"serving": {"enabled": True, "noAuth": True, "models": list(models)}}


@needs_helm
@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({}, ["'/store': missing property 'uri'"]),
        (with_store(uri="graft-store"), ["'/store/uri'", "does not match pattern"]),
        (with_store(endpiont="https://minio.example"), ["'/store'", "'endpiont' not allowed"]),
        (with_store(endpoint="minio:9000"), ["'/store/endpoint'"]),
        (with_store(endpoint="https://a:b@minio.example"), ["'/store/endpoint'"]),
        (LEAST | {"pods": {"proxy": {"https": "http://a:b@proxy:3128"}}}, ["'/pods/proxy/https'"]),
        (with_store(caBundle="/etc/ca.crt"), ["'/store/caBundle'"]),
        (
            with_store(caBundle="-----BEGIN CERTIFICATE-----", caConfigMap="corporate"),
            ["'/store/caConfigMap'", "got string, want null"],
        ),
        (LEAST | {"extraEnv": []}, ["'extraEnv' not allowed"]),
        (LEAST | {"image": {"pullPolicy": "Sometimes"}}, ["'/image/pullPolicy'"]),
        (LEAST | {"image": {"tag": 2}}, ["'/image/tag'", "got number"]),
        (LEAST | {"classes": {"cpu": {"cpu": "one"}}}, ["'/classes/cpu/cpu'"]),
        (LEAST | {"classes": {"cpu": {"cpu": 0}}}, ["'/classes/cpu/cpu'"]),
        (
            LEAST | {"classes": {"cpu": {"sharedMemory": "64Mi"}}},
            ["classes.cpu.sharedMemory: 64Mi is too little for Ray's objects; expected 100Mi"],
        ),
        (
            LEAST | {"head": {"sharedMemory": "4096Mi"}},
            ["head.sharedMemory: 4096Mi is a part of memory, which is 4Gi; expected less"],
        ),
        (LEAST | {"classes": {"cpu": {"memory": "lots"}}}, ["'/classes/cpu/memory'"]),
        (LEAST | {"classes": {"gpu": {"cpu": "1"}}}, ["'/classes/gpu'", "'memory'"]),
        (LEAST | {"classes": {"cpu": {"cache": "512Mi"}}}, ["'/classes/cpu/cache'"]),
        (LEAST | {"head": {"cache": None}}, ["'/head': missing property 'cache'"]),
        (LEAST | {"head": {"nodeSelector": {"pool": 1}}}, ["'/head/nodeSelector/pool'"]),
        (LEAST | {"image": {"tag": "sha256:12"}}, ["'/image/tag'"]),
        (LEAST | {"classes": {"GPU": {}}}, ["invalid propertyName 'GPU'"]),
        (
            LEAST | {"classes": {"cpu": {"tolerations": [{"keys": "gpu"}]}}},
            ["'/classes/cpu/tolerations/0'", "'keys' not allowed"],
        ),
        (
            LEAST | {"defaultClass": "gpu"},
            ["defaultClass: there is no resource class 'gpu'; classes has: cpu"],
        ),
        (LEAST | {"classes": {"cpu": None}}, ["'/classes'"]),
        (
            LEAST | {"rayCluster": {"enabled": True, "class": "gpu"}},
            ["rayCluster.class: there is no resource class 'gpu'"],
        ),
        (
            LEAST | {"rayCluster": {"enabled": True, "gpusPerWorker": 1}},
            ["rayCluster.class: resource class 'cpu' has no GPUs"],
        ),
        (LEAST | {"jobs": {"retries": -1}}, ["'/jobs/retries'"]),
        (LEAST | {"jobs": {"retries": "2"}}, ["'/jobs/retries'", "got string, want integer"]),
        (LEAST | {"jobs": {"labels": {"graft.dev/role": "x"}}}, ["'/jobs/labels"]),
        (LEAST | {"jobs": {"labels": {"ray.io/cluster": "x"}}}, ["'/jobs/labels"]),
        (
            LEAST | {"pods": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
            ["pods.env: 'A' stands twice"],
        ),
        (
            LEAST | {"pods": {"env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "1"}]}},
            ["'/pods/env/0/name'"],
        ),
        (
            LEAST | served({"name": "ants", "route": "/"}, {"name": "v1"}),
            ["the route '/v1' of 'v1' lies among the paths of 'ants' (/v1)"],
        ),
        (
            LEAST | served({"name": "ants", "route": "/a"}, {"name": "b", "route": "/a/v1/b"}),
            ["lies among the paths of 'ants' (/a/v1)"],
        ),
        (LEAST | {"serving": {"enabled": True}}, ["'/serving': missing property 'model'"]),
        (
            LEAST | {"serving": SERVING | {"keysSecret": None}},
            ["serving.keysSecret: it names no Secret", "graft keys new", "serving.noAuth=true"],
        ),
        (
            LEAST | {"serving": SERVING | {"noAuth": True}},
            ["serving.keysSecret and serving.noAuth: either those who have a key"],
        ),
        (
            LEAST | {"serving": {"noAuth": True, "origins": ["*"]}},
            ["'/serving/noAuth'", "'/serving/origins'"],
        ),
        (
            LEAST | {"serving": SERVING | {"origins": ["https://a/"], "maxMegapixels": 81}},
            ["'/serving/origins/0'", "'/serving/maxMegapixels'"],
        ),
        (LEAST | {"serving": {"keysSecret": "graft-keys"}}, ["'/serving/keysSecret'"]),
        (
            LEAST | {"serving": SERVING | {"models": [{"name": "cats"}]}},
            ["'/serving/model'", "want null"],
        ),
        (
            LEAST | served({"name": "a"}, {"name": "a"}),
            ["serving.models: 'a' stands twice; expected each model once"],
        ),
        (
            LEAST | served({"name": "a"}, {"name": "b", "route": "/a", "replicas": {"min": 1}}),
            ["serving.models: 'a' and 'b' have the route '/a'", "the same class and replicas"],
        ),
        (
            LEAST | served({"name": "a", "replicas": {"min": 3, "max": 2}}),
            ["serving.models: replicas of 'a' are at least 3 and at most 2"],
        ),
        (
            LEAST | served({"name": "a", "class": "gpu"}),
            ["serving.class: there is no resource class 'gpu'"],
        ),
        (
            LEAST | {"serving": {"service": {"annotations": {"a": "b"}}}},
            ["'/serving/service/annotations'"],
        ),
        (with_store(uri="/store"), ["'/store': missing property 'persistentVolumeClaim'"]),
        (with_store(persistentVolumeClaim="vision"), ["'/store/persistentVolumeClaim'", "null"]),
        (with_store(uri="/tmp/store", persistentVolumeClaim="vision"), ["'/store/uri'"]),
        (
            with_store(uri="/store", persistentVolumeClaim="vision", secret="graft-s3"),
            ["'/store/secret'", "want null"],
        ),
        (
            LEAST | {"serviceAccount": {"create": False}},
            ["'/serviceAccount': missing property 'name'"],
        ),
        (
            LEAST | {"pods": {"env": [{"name": "GRAFT_STORE", "value": "s3://other"}]}},
            ["'/pods/env/0/name'"],
        ),
        (
            LEAST | {"pods": {"env": [{"name": "https_proxy", "value": "x"}]}},
            ["'/pods/env/0/name'"],
        ),
        (LEAST | {"pods": {"env": [{"name": "A"}]}}, ["'/pods/env/0'", "'value'"]),
        (LEAST | {"pods": {"labels": {"ray.io/group": "x"}}}, ["'/pods/labels'"]),
        (LEAST | {"pods": {"runAsUser": 0}}, ["'/pods/runAsUser'"]),
        (LEAST | {"serving": SERVING | {"model": "Ants"}}, ["'/serving/model'"]),
        (
            LEAST | {"serving": SERVING | {"ingress": {"enabled": True}}},
            ["'/serving/ingress': missing property 'host'"],
        ),
        (
            LEAST
            | {
                "serving": SERVING
                | {
                    "ingress": {
                        "enabled": True,
                        "host": "a.example",
                        "tlsSecret": "t",
                        "defaultCertificate": True,
                    }
                }
            },
            ["'/serving/ingress/tlsSecret'", "want null"],
        ),
        (
            LEAST | {"serving": SERVING | {"ingress": {"enabled": True, "host": "a.example"}}},
            ["would be held up; name the controller's namespace in clientNamespaces"],
        ),
        (
            LEAST | {"serving": SERVING | {"httpRoute": {"enabled": True, "host": "a.example"}}},
            ["'/serving/httpRoute': missing properties 'gateway', 'listener'"],
        ),
        (
            LEAST | {"serving": {"ingress": {"enabled": True, "host": "a", "tlsSecret": "t"}}},
            ["'/serving/ingress/enabled'"],
        ),
        (
            LEAST | {"serving": {"httpRoute": ROUTE}},
            ["'/serving/httpRoute/enabled'"],
        ),
        (LEAST | {"serving": {"redis": {"address": "redis:6379"}}}, ["'/serving/redis/address'"]),
        (
            LEAST | {"networkPolicy": {"credentials": {"port": None}}},
            ["'/networkPolicy/credentials'", "'port'"],
        ),
        (
            LEAST | {"networkPolicy": {"store": {"cidrs": []}}},  # to nowhere would be to anywhere
            ["'/networkPolicy/store/cidrs'"],
        ),
        (LEAST | {"submitters": [{"kind": "Team", "name": "x"}]}, ["'/submitters/0/kind'"]),
        (
            LEAST | {"submitters": [{"kind": "ServiceAccount", "name": "x"}]},
            ["'/submitters/0'", "'namespace'"],
        ),
    ],
)
def test_refused(values: dict[str, Any], messages: list[str]) -> None:
    done = run_helm("template", "graft", CHART, values=values)
    assert done.returncode != 0
    for message in messages:
        assert message in done.stderr
