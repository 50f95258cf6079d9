"""What the chart makes: Kubernetes' own schemas take it, and jobs are made of it."""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from colours import colour_spec
from graft import __version__
from graft.cluster.profile import HeadNode, Profile
from graft.cluster.rayjob_manifest import RAY_VERSION, Submission, rayjob
from graft.serving.stats import METRICS
from graft.spec import load_job, parse_yaml
from helm.rendering import (
    CASES,
    CHART,
    DIGEST,
    EVERYTHING,
    LEAST,
    NAMESPACE,
    RELEASE,
    ROOT,
    Object,
    needs_helm,
    needs_schemas,
    objects_of,
    only,
    pod_specs,
    rendered,
    rendered_text,
    run_helm,
)
from helm.schemas import refusals

NO_SCHEMA = ("PodMonitor", "PrometheusRule")
"""Their CRDs are not among what tests/programs.py keeps."""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
KIND = ROOT / "deploy" / "kind"
PLAIN = ROOT / "deploy" / "kubernetes"

pytestmark = needs_helm


def profile(values: dict[str, Any]) -> Profile:
    text = only(rendered(values), "ConfigMap", "-profile")["data"]["profile.yaml"]
    return Profile.model_validate(parse_yaml(text, "profile.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case: str) -> None:
    done = run_helm("lint", "--strict", "--quiet", CHART, values=CASES[case])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_schemas
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_and_kuberay_know_every_field(case: str) -> None:
    assert refusals(one for one in rendered(CASES[case]) if one["kind"] not in NO_SCHEMA) == []


@needs_schemas
@pytest.mark.parametrize(
    ("good", "wrong", "named"),
    [
        ("excludeHeadPodFromServeSvc", "excludeHead", "RayService graft: $.spec: Additional"),
        ("podSelector", "pods", "NetworkPolicy graft-job: $.spec: Additional"),
        (
            "minAvailable: 1",
            "minAvailable: [1]",
            "PodDisruptionBudget graft-serving-class-cpu: $.spec.minA",
        ),
        ("runAsUser: 1000", 'runAsUser: "1000"', "'1000' is not of type 'integer'"),
        ('cpu: "1"', "cpu: half", "'half' does not match"),
        ("minReplicas: 2", "minReplicas: 2e0", "2.0 is not of type 'integer'"),
        ("type: RuntimeDefault", "type: null", "None is not of type 'string'"),
    ],
)
def test_what_is_checked_against_the_schemas_can_fail(good: str, wrong: str, named: str) -> None:
    text = rendered_text(CASES["serving"])
    assert good in text
    assert named in "\n".join(refusals(objects_of(text.replace(good, wrong))))


@needs_schemas
def test_what_no_schema_knows_is_an_error() -> None:
    text = rendered_text(CASES["serving"])
    with pytest.raises(LookupError, match="no schema for NetworkPolicy of apps/v1"):
        refusals(objects_of(text.replace("networking.k8s.io/v1", "apps/v1")))
    with pytest.raises(yaml.YAMLError, match="a key stands twice"):
        objects_of(text.replace("metadata:", "kind: Other\nmetadata:"))


@pytest.mark.parametrize("case", CASES)
def test_a_profile_is_read_back(case: str) -> None:
    assert profile(CASES[case]).store == CASES[case]["store"]["uri"]


def test_a_profile_has_what_the_values_say() -> None:
    found = profile(EVERYTHING)
    assert found.image == "graft:2"
    assert found.allowed_images == ("registry.example/graft:*",)
    assert found.image_pull_secrets == ("pull",)
    assert found.store_endpoint == "https://minio.store.svc:9000"
    assert (found.store_secret, found.store_ca) == ("graft-s3", "graft-ca")
    assert found.service_account == only(rendered(EVERYTHING), "ServiceAccount")["metadata"]["name"]
    assert found.classes["gpu-a100"].model_dump() == {
        "cpu": "4",
        "memory": "64Gi",
        "gpu": "nvidia.com/gpu",
        "shared_memory": "16Gi",
        "cache": "40Gi",
        "tmp": "20Gi",
        "runtime_class": "nvidia",
        "autoscaled": True,
        "evictable": False,
        "node_selector": {"gpu": "a100"},
        "tolerations": ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    }
    assert (found.priority_class, found.queue) == ("low", "team")
    assert found.head == HeadNode(
        cpu="1",
        memory="4Gi",
        cache="5Gi",
        node_selector={"pool": "system"},
        tolerations=({"key": "system", "operator": "Exists"},),
    )
    assert profile(CASES["digest"]).image == f"graft@{DIGEST}"
    assert profile(CASES["class called like a number"]).resource_class(None)[0] == "1"
    assert found.labels == {
        "cost-centre": "42",
        "ray.io/gang-scheduling-enabled": "true",
        "graft.dev/release": "graft",
        "graft.dev/role": "job",
    }


def test_the_charts_defaults_are_the_profiles() -> None:
    made = profile(LEAST)
    names = ("version", "min_client", "image", "store", "service_account", "labels")
    own = Profile.model_validate(
        {name: getattr(made, name) for name in names}
        | {"classes": {"cpu": {}}, "default_class": "cpu"}
    )
    assert made == own


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ({}, __version__),
        ({"tag": "v0.3.1"}, "0.3.1"),
        ({"tag": "0.3.0rc1"}, "0.3.0rc1"),
        ({"tag": "main"}, __version__),
        ({"tag": "0.3.0-slim"}, __version__),
        ({"tag": DIGEST}, __version__),
        ({"tag": "main", "release": "0.3.1"}, "0.3.1"),
    ],
)
def test_a_profile_says_the_release_of_its_image(image: dict[str, str], release: str) -> None:
    made = profile(LEAST | {"image": image})
    assert made.version == release
    assert made.min_client
    assert Version(made.min_client) <= Version(__version__)  # else nobody could use it


def test_where_jobs_are_switched_off_none_is_sent_and_those_that_run_keep_all_they_use() -> None:
    submitters = {"submitters": [{"kind": "User", "name": "a"}]}
    off = rendered(CASES["no jobs"] | submitters)
    on = rendered(CASES["no jobs"] | submitters | {"jobs": {"enabled": True}})
    for kind in ("NetworkPolicy", "ServiceAccount", "RoleBinding", "RayService"):
        assert [one for one in off if one["kind"] == kind] == [
            one for one in on if one["kind"] == kind
        ]
    rights = only(off, "Role")["rules"]
    assert [rule for rule in only(on, "Role")["rules"] if rule not in rights] == [
        rights[0] | {"verbs": ["create", "get", "list", "delete"]}
    ]
    assert rights[0]["verbs"] == ["get", "list", "delete"]
    assert "ClusterRole" not in {one["kind"] for one in off}
    made = only(off, "ConfigMap", "-profile")
    assert made["metadata"]["labels"]["graft.dev/profile"] == "closed"
    assert not profile(CASES["no jobs"]).takes_jobs
    assert profile(LEAST).takes_jobs


@needs_schemas
@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_kuberay_knows_every_field_of_jobs(values: dict[str, Any]) -> None:
    gpus = colour_spec(scaling={"gpus_per_worker": 1})
    jobs = [Submission("one", load_job(f"jobs/{n}.yaml", [], None)) for n in ("finetune", "sweep")]
    if "gpu-a100" in values.get("classes", {}):
        jobs.append(Submission("two", gpus, resource_class="gpu-a100"))
    manifests = [rayjob(job, profile(values)) for job in jobs]
    assert refusals(manifests) == []


def all_objects() -> list[tuple[str, Object]]:
    return [(case, one) for case, values in CASES.items() for one in rendered(values)]


def test_everything_has_our_labels_so_that_one_can_see_that_nothing_is_left() -> None:
    for case, one in all_objects():
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "graft", case
        assert labels["app.kubernetes.io/instance"] == "graft", case
        assert labels["app.kubernetes.io/managed-by"] == "Helm", case
        assert labels["graft.dev/release"] == "graft", case
        kept = one["metadata"].get("annotations", {})
        assert "helm.sh/resource-policy" not in kept, case


def test_two_releases_share_no_name() -> None:
    first, second = (
        {(one["kind"], one["metadata"]["name"]) for one in rendered(EVERYTHING, release=name)}
        for name in ("graft", "other")
    )
    assert first & second == set()
    assert len({name for kind, name in first if kind == "NetworkPolicy"}) == 10


def test_every_pod_meets_restricted_pod_security() -> None:
    specs = [spec for _, one in all_objects() for spec in pod_specs(one)]
    assert len(specs) > 10
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser") in (1000, None)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            kinds = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
            assert volume.keys() <= {"name", *kinds}
        for container in spec["containers"]:
            expected = CONTAINER_SECURITY | {"readOnlyRootFilesystem": True}
            assert container["securityContext"] == expected
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_ray_asks_for_its_token_everywhere_and_is_the_version_of_the_image() -> None:
    objects = rendered(EVERYTHING)
    clusters = [
        only(objects, "RayCluster")["spec"],
        only(objects, "RayService")["spec"]["rayClusterConfig"],
    ]
    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == RAY_VERSION == importlib.metadata.version("ray")


def test_kueue_admits_what_names_a_queue() -> None:
    for kind, queue in (("RayCluster", "shared"), ("RayService", "online")):
        label = {"kueue.x-k8s.io/queue-name": queue}
        assert label.items() <= only(rendered(EVERYTHING), kind)["metadata"]["labels"].items()
        metadata = only(rendered(CASES["heads stay"]), kind)["metadata"]
        assert "kueue" not in json.dumps(metadata)


def test_pods_of_the_chart_get_the_store_as_pods_of_jobs_do() -> None:
    manifest = rayjob(Submission("one", colour_spec()), profile(EVERYTHING))
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    theirs = {one["name"]: one.get("value") for one in head["containers"][0]["env"]}
    store = {name: theirs[name] for name in ("GRAFT_STORE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE")}
    specs = [spec for one in rendered(EVERYTHING) for spec in pod_specs(one)]
    assert len(specs) == 5
    for spec in specs:
        assert spec["serviceAccountName"] == head["serviceAccountName"]
        assert {"name": "ca", "configMap": {"name": "graft-ca"}} in spec["volumes"]
        for container in spec["containers"]:
            assert container["image"] == "graft:2"
            if container["name"] == "serving":  # asks the served model alone
                assert container["envFrom"] == [{"configMapRef": {"name": "site"}}]
                continue
            ours = {one["name"]: one.get("value") for one in container["env"]}
            assert store.items() <= ours.items()
            assert container["envFrom"] == head["containers"][0]["envFrom"]


def test_a_cache_is_limited_and_requested_of_the_disk() -> None:
    job = rayjob(Submission("one", colour_spec()), profile(EVERYTHING))["spec"]["rayClusterSpec"]
    objects = rendered(EVERYTHING)
    serving = only(objects, "RayService")["spec"]["rayClusterConfig"]
    shared = only(objects, "RayCluster")["spec"]
    for cluster, worker in ((job, "10"), (serving, "10"), (shared, "40")):
        for group, size in (
            (cluster["headGroupSpec"], "5"),
            (cluster["workerGroupSpecs"][0], worker),
        ):
            spec = group["template"]["spec"]
            assert {"name": "cache", "emptyDir": {"sizeLimit": f"{size}Gi"}} in spec["volumes"]
            container = spec["containers"][0]
            assert {"name": "GRAFT_CACHE_GB", "value": size} in container["env"]


def test_all_that_is_no_worker_runs_where_the_head_may() -> None:
    job = rayjob(Submission("one", colour_spec()), profile(EVERYTHING))["spec"]
    objects = rendered(EVERYTHING)
    clusters = [
        job["rayClusterSpec"],
        only(objects, "RayCluster")["spec"],
        only(objects, "RayService")["spec"]["rayClusterConfig"],
    ]
    heads = [cluster["headGroupSpec"]["template"]["spec"] for cluster in clusters]
    for spec in (*heads, only(objects, "Pod")["spec"]):
        assert spec["nodeSelector"] == {"pool": "system"}
        assert {"key": "system", "operator": "Exists"} in spec["tolerations"]
    for cluster in clusters:
        for group in cluster["workerGroupSpecs"]:
            spec = group["template"]["spec"]
            assert spec.get("nodeSelector") in (None, {"gpu": "a100"})
            assert {"key": "system", "operator": "Exists"} not in spec.get("tolerations", [])


def test_gpus_and_shared_memory_of_the_shared_cluster() -> None:
    cluster = only(rendered(EVERYTHING), "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    counts = {"num-cpus": "2", "num-gpus": "1", "object-store-memory": str(12 << 30)}
    assert group["rayStartParams"] == counts
    spec = group["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    memory = {"medium": "Memory", "sizeLimit": "16Gi"}
    assert {"name": "shm", "emptyDir": memory} in spec["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]
    assert spec["nodeSelector"] == {"gpu": "a100"}


def test_submitters_may_do_what_the_command_does_and_no_more() -> None:
    objects = rendered(CASES["submitters"] | {"rbac": {"debugging": False}})
    rights = {
        (group, resource, *rule.get("resourceNames", [])): set(rule["verbs"])
        for rule in only(objects, "Role")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("ray.io", "rayjobs"): {"create", "get", "list", "delete"},
        ("", "pods"): {"list"},
        ("", "pods/log"): {"get"},
        ("", "namespaces"): {"get"},
        ("", "configmaps"): {"list"},
        ("", "resourcequotas"): {"list"},
        ("", "limitranges"): {"list"},
        ("", "secrets", "graft-s3"): {"get"},
    }
    queue = {"rbac": {"debugging": False}, "jobs": {"queue": "vision"}}
    queued = only(rendered(CASES["submitters"] | queue), "Role")["rules"]
    kueue = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["localqueues", "workloads"]}
    assert [rule for rule in queued if rule not in only(objects, "Role")["rules"]] == [
        kueue | {"verbs": ["list"]}
    ]
    queue |= {"rbac": {"debugging": False, "kueue": False}}  # such rights are not the installer's
    assert only(rendered(CASES["submitters"] | queue), "Role") == only(objects, "Role")
    (rule,) = only(objects, "ClusterRole")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        binding = only(objects, kind)
        assert binding["subjects"] == [{"kind": "User", "name": "a@b.example"}]
        role = only(objects, binding["roleRef"]["kind"])
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert only(objects, "ServiceAccount")["automountServiceAccountToken"] is False


def test_submitters_may_look_into_what_runs() -> None:
    rights = {
        (verb, resource)
        for rule in only(rendered(CASES["submitters"]), "Role")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights >= {("get", "pods"), ("list", "events"), ("create", "pods/portforward")}
    assert {verb for verb, resource in rights if resource == "services"} == {"get", "list"}


def test_nothing_is_made_outside_of_the_namespace_without_need() -> None:
    def kinds(values: dict[str, Any]) -> set[str]:
        return {one["kind"] for one in rendered(values)}

    cluster = {"ClusterRole", "ClusterRoleBinding"}
    assert kinds(LEAST) & {*cluster, "RoleBinding"} == set()
    submitters = CASES["submitters"]
    assert kinds(submitters) >= cluster
    assert kinds(submitters | {"rbac": {"nodes": False}}) & cluster == set()


def test_the_test_is_a_hook_that_leaves_nothing_once_it_passed() -> None:
    pod = only(rendered(LEAST), "Pod")
    assert pod["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert [one["name"] for one in pod["spec"]["containers"]] == ["store"]


def test_the_dashboard_asks_for_what_ray_measures() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray
    assert ray.origin
    source = Path(ray.origin).parent
    files = ("dashboard/modules/reporter/reporter_agent.py", "serve/_private/replica.py")
    known = "".join((source / name).read_text() for name in files)
    known += (source / "serve/_private/deployment_state.py").read_text()
    objects = rendered(EVERYTHING)
    dashboard = json.loads(only(objects, "ConfigMap", "-dashboard")["data"]["graft.json"])
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    metrics = {name for query in asked for name in re.findall(r"\bray_(\w+)", query)}
    ours = {metric for metric in metrics if metric.startswith("graft_serving")}
    assert {f"ray_{metric}" for metric in ours} <= set(METRICS)
    for metric in metrics - ours:
        recorded = metric if metric.startswith("node") else re.sub(r"_(total|bucket)$", "", metric)
        assert f'"{recorded}"' in known
    assert len(ours) == 12
    assert len(metrics - ours) == 7
    labels = {name for query in asked for name in re.findall(r"graft_dev_\w+", query)}
    monitored = only(objects, "PodMonitor")["spec"]["podTargetLabels"]
    assert labels == {re.sub(r"\W", "_", label) for label in monitored}


def test_alert_rules_ask_for_what_replicas_count() -> None:
    (group,) = only(rendered(EVERYTHING), "PrometheusRule")["spec"]["groups"]
    asked = [rule["expr"] for rule in group["rules"]]
    metrics = {name for query in asked for name in re.findall(r"\bray_\w+", query)}
    assert len(metrics) == 6
    assert metrics <= set(METRICS)
    for rule in group["rules"]:
        assert f'graft_dev_release="{RELEASE}"' in rule["expr"]
        assert "{{ $labels.model }}: " in rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_notes_say_the_next_command() -> None:
    command = ["install", "graft", CHART, "--namespace", NAMESPACE, "--dry-run=client"]
    done = run_helm(*command, values=EVERYTHING)
    notes = done.stdout.partition("NOTES:")[2]
    assert "graft submit jobs/finetune.yaml --namespace team\n" in notes
    assert "helm test graft --namespace team\n" in notes
    assert "backbone.weights=PATH" in notes
    assert "hand out" in notes
    assert "backbone.weights" not in run_helm(*command, values=LEAST).stdout


@needs_schemas
def test_the_kind_recipe() -> None:
    values = parse_yaml((KIND / "values.yaml").read_text(), "values.yaml")
    assert refusals(rendered(values)) == []
    store = objects_of((KIND / "minio.yaml").read_text())
    assert refusals(store) == []
    images = [c["image"] for one in store for spec in pod_specs(one) for c in spec["containers"]]
    assert all(re.search(r":[\w.-]+$", image) for image in images), images


def test_plain_manifests_are_current() -> None:
    """The command is the one in their README."""
    readme = (PLAIN / "README.md").read_text()
    (command,) = re.findall(r"^helm template .* > deploy/.*$", readme, re.MULTILINE)
    words = command.split()[1:-2]
    where = words.index("--values")
    values = parse_yaml((ROOT / words.pop(where + 1)).read_text(), "values")
    words.pop(where)
    words[words.index("helm/graft")] = str(CHART)
    done = run_helm(*words, values=values)
    assert done.stdout == (PLAIN / "graft.yaml").read_text(), f"run: {command}"
