"""Values that the chart refuses, and the key that it names."""

from typing import Any

import pytest

from helm.rendering import CHART, LEAST, SERVING, needs_helm, run_helm

STORE: dict[str, Any] = LEAST["store"]
ROUTE = {"enabled": True, "host": "a.example", "gateway": "public", "listener": "https"}


def with_store(**changes: Any) -> dict[str, Any]:
    return {"store": STORE | changes}


@needs_helm
@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({}, ["'/store': missing property 'uri'"]),
        (with_store(uri="graft-store"), ["'/store/uri'", "does not match pattern"]),
        (with_store(endpiont="https://minio.example"), ["'/store'", "'endpiont' not allowed"]),
        (with_store(endpoint="minio:9000"), ["'/store/endpoint'"]),
        (with_store(caBundle="/etc/ca.crt"), ["'/store/caBundle'"]),
        (
            with_store(caBundle="-----BEGIN CERTIFICATE-----", caConfigMap="corporate"),
            ["'/store/caConfigMap'", "got string, want null"],
        ),
        (LEAST | {"extraEnv": []}, ["'extraEnv' not allowed"]),
        (LEAST | {"image": {"pullPolicy": "Sometimes"}}, ["'/image/pullPolicy'"]),
        (LEAST | {"image": {"tag": 2}}, ["'/image/tag'", "got number"]),
        (LEAST | {"classes": {"cpu": {"cpu": 1}}}, ["'/classes/cpu/cpu'", "want string"]),
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
        (LEAST | {"jobs": {"labels": {"graft.dev/role": "x"}}}, ["'/jobs/labels'"]),
        (LEAST | {"serving": {"enabled": True}}, ["'/serving': missing property 'model'"]),
        (LEAST | {"serving": SERVING | {"model": "Ants"}}, ["'/serving/model'"]),
        (
            LEAST | {"serving": SERVING | {"ingress": {"enabled": True, "host": "a.example"}}},
            ["'/serving/ingress': missing property 'tlsSecret'"],
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
