"""Serving: one Ray cluster for all models, and the ways to it."""

import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from graft.cluster.profile import times
from graft.serving.limits import DEFAULT_LIMITS
from graft.spec import parse_yaml
from helm.rendering import (
    CASES,
    EVERYTHING,
    LEAST,
    NAMESPACE,
    SERVING,
    STORE,
    Object,
    needs_helm,
    only,
    pod_specs,
    rendered,
    rendered_text,
)

pytestmark = needs_helm
ROOT = Path(__file__).parents[2]


def environment(spec: Object) -> dict[str, str | None]:
    """Return the variables of a pod's first container, those with a value."""
    return {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}


def applications(values: dict[str, Any]) -> dict[str, Object]:
    """Return the applications of the RayService by name."""
    text = only(rendered(values), "RayService")["spec"]["serveConfigV2"]
    return {one["name"]: one for one in parse_yaml(text, "serveConfigV2")["applications"]}


def test_serving_is_spread_over_nodes() -> None:
    objects = rendered(CASES["serving"])
    (group,) = only(objects, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (spread,) = group["template"]["spec"]["topologySpreadConstraints"]
    labels = group["template"]["metadata"]["labels"] | {"ray.io/node-type": "worker"}
    assert spread == {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }


def test_a_pod_has_time_to_drain_before_it_is_killed() -> None:
    """And a replica to finish its requests, once Ray Serve has told all proxies that it goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Serve's own, of pydantic
        from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S as DRAIN_S
        from ray.serve._private.constants import (
            RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S as REACHABLE_S,
        )

    from graft.serving.limits import Limits

    for kind in ("RayService", "RayCluster"):
        for spec in pod_specs(only(rendered(EVERYTHING), kind)):
            given = environment(spec)
            drain_s = float(given.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or DRAIN_S)
            lifecycle = spec["containers"][0].get("lifecycle")
            sleep_s = int(lifecycle["preStop"]["exec"]["command"][-1]) if lifecycle else 0
            # And Serve's own end.
            assert spec["terminationGracePeriodSeconds"] >= sleep_s + drain_s + 15
            if kind == "RayService":
                is_head = spec["containers"][0]["name"] == "head"
                assert sleep_s == (0 if is_head else 15)
                assert drain_s >= REACHABLE_S + Limits().answer_s + Limits().patience_s


def test_the_image_has_the_haproxy_that_pods_start() -> None:
    for spec in pod_specs(only(rendered(EVERYTHING), "RayService")):
        path = environment(spec)["RAY_SERVE_HAPROXY_BINARY_PATH"]
        folder, _, name = str(path).rpartition("/")
        assert f"ENV PATH={folder}:" in (ROOT / "deploy" / "Dockerfile").read_text()
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert scripts[name] == "graft.serving.haproxy:main"


def test_workers_take_what_their_class_says_for_each_cpu() -> None:
    for cpu, count in (("250m", 3), ("1.5", 2), ("4", 1), (4, 2), (0.5, 3)):
        classes = {"cpu": {"cpu": cpu}}
        serving = SERVING | {"cpusPerReplica": count, "replicas": 4}
        service = only(rendered(LEAST | {"classes": classes, "serving": serving}), "RayService")
        (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 4
        assert group["rayStartParams"]["num-cpus"] == str(count)
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"]["cpu"] == times(str(cpu), count)


def test_ray_serve_takes_the_application_and_we_take_its_arguments() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Serve's own, of pydantic
        from ray.serve.schema import ServeDeploySchema

        from graft.serving.deployment import Followed, Following, following

    service = only(rendered(EVERYTHING), "RayService")["spec"]
    config = parse_yaml(service["serveConfigV2"], "serveConfigV2")
    (application,) = ServeDeploySchema.model_validate(config).applications
    (deployment,) = application.deployments
    assert (deployment.name, deployment.num_replicas) == ("ants-bees", 2)
    assert application.import_path == f"{following.__module__}:{following.__name__}"
    assert Following.model_validate(application.args) == Following(
        store="s3://bucket/prefix",
        models=(Followed(name="ants-bees", alias="champion"),),
        cpus_per_replica=1,
        engine="auto",
        deployment=f"{NAMESPACE}.graft",
        poll_s=10,
        keys="/etc/graft/keys/keys.json",
        access_log="/proc/1/fd/1",
    )
    told = {key: value for key, value in application.args.items() if key != "models"}
    of_an_earlier_chart = told | {"model": "ants-bees", "alias": "champion"}
    assert Following.model_validate(of_an_earlier_chart) == Following.model_validate(
        application.args
    )
    for spec in pod_specs(service):
        given = environment(spec)
        assert given["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert given["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
        assert given["OMP_WAIT_POLICY"] == "PASSIVE"
        assert given["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"  # as many as the pod has CPUs


def test_a_head_outlives_itself_with_redis() -> None:
    cluster = only(rendered(EVERYTHING), "RayService")["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis.cache.svc:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }
    cluster = only(rendered(CASES["serving"]), "RayService")["spec"]["rayClusterConfig"]
    assert "gcsFaultToleranceOptions" not in cluster


@pytest.mark.parametrize(
    ("case", "budgets"),
    [
        ("least", {}),
        ("shared", {}),
        ("serving", {"graft-serving-class-cpu": 1}),
        ("one replica", {}),
        ("models", {"graft-serving-class-cpu": 2}),  # of 2 and 1; the GPU class has one replica
        (
            "heads stay",
            {"graft-serving-class-cpu": 1, "graft-shared-head": 1, "graft-serving-head": 1},
        ),
    ],
)
def test_disruption_budgets_let_a_node_drain(case: str, budgets: dict[str, int]) -> None:
    specs = {
        one["metadata"]["name"]: one["spec"]
        for one in rendered(CASES[case])
        if one["kind"] == "PodDisruptionBudget"
    }
    assert {name: spec["minAvailable"] for name, spec in specs.items()} == budgets
    assert all(spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for spec in specs.values())


def test_a_drain_takes_no_class_of_serving_whole() -> None:
    """A budget over all pods would: those of one class are not needed for its number."""
    models = [{"name": "ants", "replicas": {"min": 4}}, {"name": "dogs", "class": "gpu-a100"}]
    values = CASES["models"] | {"serving": {"enabled": True, "noAuth": True, "models": models}}
    objects = rendered(values)
    cluster = only(objects, "RayService")["spec"]["rayClusterConfig"]
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    for group in cluster["workerGroupSpecs"]:
        labels = group["template"]["metadata"]["labels"]
        # As KubeRay labels its pods.
        labels |= {"ray.io/node-type": "worker", "ray.io/group": group["groupName"]}
        (budget,) = [
            one for one in budgets if one["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert budget["minAvailable"] == group["replicas"] - 1


def test_with_redis_a_head_may_go() -> None:
    redis = {"redis": {"address": "redis:6379"}}
    values = CASES["heads stay"] | {"serving": SERVING | redis}
    names = [one["metadata"]["name"] for one in rendered(values)]
    assert "graft-shared-head" in names
    assert "graft-serving-head" not in names


def test_ways_in_lead_to_the_service_that_kuberay_makes_with_tls() -> None:
    objects = rendered(EVERYTHING)
    service = f"{only(objects, 'RayService')['metadata']['name']}-serve-svc"
    ingress = only(objects, "Ingress")["spec"]
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": service, "port": {"number": 8000}}
    assert ingress["tls"] == [{"hosts": [rule["host"]], "secretName": "vision-tls"}]
    route = only(objects, "HTTPRoute")["spec"]
    assert route["rules"] == [{"backendRefs": [{"name": service, "port": 8000}]}]
    assert route["parentRefs"] == [
        {"name": "public", "namespace": NAMESPACE, "sectionName": "https"}
    ]
    (test,) = pod_specs(only(objects, "Pod"))
    assert f"http://{service}.team.svc:8000/healthz" in test["containers"][1]["command"]


def test_models_have_an_application_each_and_one_head() -> None:
    served = applications(CASES["models"])
    assert {name: one["route_prefix"] for name, one in served.items()} == {
        "ants-bees": "/",
        "cats": "/cats",
        "dogs": "/dogs",
    }
    assert [one["args"]["models"] for one in served.values()] == [
        [{"name": "ants-bees", "alias": "champion"}],
        [{"name": "cats", "alias": "candidate"}],
        [{"name": "dogs", "alias": "champion"}],
    ]
    assert not any("tails_gb" in one["args"] for one in served.values())
    counts = {name: one["deployments"][0].get("num_replicas") for name, one in served.items()}
    assert counts == {"ants-bees": 2, "cats": None, "dogs": 1}  # cats has as many as it needs
    assert not any("replicas" in one["args"] for one in served.values())
    groups = only(rendered(CASES["models"]), "RayService")["spec"]["rayClusterConfig"][
        "workerGroupSpecs"
    ]
    assert {group["groupName"]: group["replicas"] for group in groups} == {"cpu": 5, "gpu-a100": 1}


def test_pods_say_how_many_they_are_for_kuberay_ignores_it_elsewhere() -> None:
    for count in (2, 3):
        values = LEAST | {"serving": SERVING | {"replicas": count}}
        values["pods"] = {"annotations": {"team": "insects"}}
        cluster = only(rendered(values), "RayService")["spec"]["rayClusterConfig"]
        (group,) = cluster["workerGroupSpecs"]
        assert group["template"]["metadata"]["annotations"] == {
            "graft.dev/pods": str(count),
            "team": "insects",
        }
        assert cluster["headGroupSpec"]["template"]["metadata"]["annotations"] == {
            "team": "insects"
        }


def test_models_of_one_route_share_the_pods_that_answer_for_them() -> None:
    models = [
        {"name": "ants-bees", "route": "/"},
        {"name": "cats", "alias": "candidate", "route": "/", "replicas": {"min": 2}},
        {"name": "dogs"},
    ]
    values = CASES["serving"] | {"serving": SERVING | {"model": None, "models": models}}
    served = applications(values)
    assert {name: one["route_prefix"] for name, one in served.items()} == {
        "ants-bees": "/",
        "dogs": "/dogs",
    }
    arguments = served["ants-bees"]["args"]
    assert arguments["models"] == [
        {"name": "ants-bees", "alias": "champion"},
        {"name": "cats", "alias": "candidate"},
    ]
    assert arguments["tails_gb"] == 1
    cluster = only(rendered(values), "RayService")["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == 2 + 2
    (pod,) = pod_specs(only(rendered(values), "Pod"))
    assert len(pod["containers"][1]["command"][3:]) == 2


def test_a_replica_runs_on_nodes_of_its_class_and_has_the_gpu_that_its_pod_takes() -> None:
    served = applications(CASES["models"])
    cluster = only(rendered(CASES["models"]), "RayService")["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for name, group in (("ants-bees", "cpu"), ("cats", "cpu"), ("dogs", "gpu-a100")):
        (deployment,) = served[name]["deployments"]
        assert (
            deployment["name"] == served[name]["args"]["models"][0]["name"]
        )  # as `following` calls it
        options = deployment["ray_actor_options"]
        assert options["label_selector"] == groups[group]["labels"]
        gpus = str(options.get("num_gpus", 0))
        assert groups[group]["rayStartParams"].get("num-gpus", "0") == gpus
        (container,) = groups[group]["template"]["spec"]["containers"]
        assert container["resources"]["limits"].get("nvidia.com/gpu", "0") == gpus
    assert served["cats"]["deployments"][0]["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 8,
        "downscale_delay_s": 600,
    }
    assert "autoscaling_config" not in served["dogs"]["deployments"][0]


def test_a_gpu_class_gives_the_one_model_its_gpus() -> None:
    values = CASES["other class"] | {"serving": SERVING}
    (group,) = only(rendered(values), "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == "1"
    (application,) = applications(values).values()
    assert application["deployments"][0]["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}


def test_a_single_model_is_one_of_a_list() -> None:
    models: list[dict[str, Any]] = [{"name": "ants-bees"}]
    alone = CASES["serving"] | {"serving": SERVING | {"model": None, "models": models}}
    assert applications(alone)["ants-bees"]["route_prefix"] == "/ants-bees"
    models[0]["route"] = "/"
    assert applications(alone) == applications(CASES["serving"])


def test_replicas_have_the_keys_where_they_look_for_them() -> None:
    (application,) = applications(CASES["serving"]).values()
    cluster = only(rendered(CASES["serving"]), "RayService")["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    spec = group["template"]["spec"]
    (volume,) = [one for one in spec["volumes"] if one["name"] == "keys"]
    assert volume["secret"] == {"secretName": "graft-keys"}
    mounts = {one["name"]: one for one in spec["containers"][0]["volumeMounts"]}
    folder, _, file = application["args"]["keys"].rpartition("/")
    # A file that is mounted alone (subPath) would never change.
    assert mounts["keys"] == {"name": "keys", "mountPath": folder, "readOnly": True}
    assert file == "keys.json"
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "keys" not in {one["name"] for one in head["volumes"]}  # no replica runs there


def test_an_access_log_can_be_switched_off() -> None:
    values = {"store": STORE, "serving": SERVING | {"accessLog": False}}
    (application,) = applications(values).values()
    assert "access_log" not in application["args"]


def test_what_a_replica_takes_is_as_values_say() -> None:
    serving = SERVING | {"origins": ["https://lab.example"], "maxMegapixels": 12.5}
    (application,) = applications({"store": STORE, "serving": serving}).values()
    assert application["args"]["origins"] == ["https://lab.example"]
    assert application["args"]["max_megapixels"] == 12.5
    (application,) = applications(CASES["serving"]).values()
    assert "origins" not in application["args"]
    assert application["args"]["max_megapixels"] == DEFAULT_LIMITS.megapixels


def test_everybody_may_ask_where_values_say_so() -> None:
    served = applications(CASES["models"])
    assert {one["args"]["no_auth"] for one in served.values()} == {True}
    assert not any("keys" in one["args"] for one in served.values())
    assert "graft-keys" not in rendered_text(CASES["models"])


def test_helm_test_asks_every_model() -> None:
    (pod,) = pod_specs(only(rendered(CASES["models"]), "Pod"))
    service = "http://graft-serve-svc.team.svc:8000"
    asked = [f"{service}/healthz", f"{service}/cats/healthz", f"{service}/dogs/healthz"]
    assert pod["containers"][1]["command"][3:] == asked


@pytest.mark.parametrize(("default", "tls"), [(False, None), (True, [{}])])
def test_a_certificate_may_be_the_controllers_own(
    default: bool, tls: list[dict[str, Any]] | None
) -> None:
    """The load balancers of clouds have it by an annotation; others answer without TLS."""
    serving = EVERYTHING["serving"]
    ingress = serving["ingress"] | {"tlsSecret": None, "defaultCertificate": default}
    values = EVERYTHING | {"serving": serving | {"ingress": ingress}}
    assert only(rendered(values), "Ingress")["spec"].get("tls") == tls


def test_the_service_has_annotations_and_kuberay_its_ports() -> None:
    service = only(rendered(EVERYTHING), "RayService")["spec"]
    annotations = {"cloud.google.com/neg": '{"ingress": true}'}
    assert service["serveService"] == {"metadata": {"annotations": annotations}, "spec": {}}
    assert "serveService" not in only(rendered(CASES["serving"]), "RayService")["spec"]
