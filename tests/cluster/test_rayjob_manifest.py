"""The manifest of a job: what Kubernetes is asked for, and what Ray is told to count."""

import json
from typing import Any

import pytest

from colours import colour_spec
from graft.cluster.job_records import Owner
from graft.cluster.log_shipping import EVERY_S, LAST_TRIES_S
from graft.cluster.profile import Profile, ResourceClass, amount, times
from graft.cluster.rayjob_manifest import (
    Submission,
    rayjob,
    sent_digest,
    sent_spec,
    spec_digest,
    travels_through_store,
)
from graft.errors import InputError, SpecError
from graft.spec import Finetune, Sweep, dump_job, load_job, parse_job, parse_yaml
from graft.sweep.space import count_trials

PROFILE = Profile.model_validate(
    {
        "image": "graft:1",
        "allowed_images": ["registry.example/graft:*"],
        "store": "s3://bucket/prefix",
        "store_secret": "graft-s3",
        "service_account": "graft",
        "classes": {
            "cpu": {"cpu": "250m", "memory": "2Gi"},
            "gpu-a100": {
                "cpu": "4",
                "memory": "64Gi",
                "gpu": "nvidia.com/gpu",
                "node_selector": {"gpu": "a100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            },
        },
        "default_class": "cpu",
    }
)


def spec(**scaling: int) -> Finetune:
    return colour_spec(scaling=scaling)


def sweep(concurrency: int | str) -> Sweep:
    document = {
        "kind": "sweep",
        "name": "s",
        "base": spec(workers=2).model_dump(mode="json", by_alias=True) | {"register": None},
        "space": {"train.optimizer.lr": {"choice": [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4]}},
        "search": {"kind": "grid"},
        "budget": {"concurrency": concurrency},
    }
    return parse_job(document, "test", Sweep)


def made(submission: Submission, **changes: Any) -> dict[str, Any]:
    """The manifest, as it travels."""
    manifest = rayjob(submission, PROFILE.model_copy(update=changes))
    sent: dict[str, Any] = json.loads(json.dumps(manifest))
    return sent


def pods(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "worker": cluster["workerGroupSpecs"][0]["template"]["spec"],
    }


def mounts_of(container: dict[str, Any]) -> set[str]:
    return {mount["name"] for mount in container["volumeMounts"]}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {
        variable["name"]: variable["value"] for variable in container["env"] if "value" in variable
    }


def test_workers_request_what_their_class_says_and_count_what_the_spec_says() -> None:
    manifest = made(Submission("one", spec(workers=2, cpus_per_worker=3)))
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert group["rayStartParams"]["num-cpus"] == "3"
    assert "num-gpus" not in group["rayStartParams"]
    resources = pods(manifest)["worker"]["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "750m", "memory": "2Gi", "ephemeral-storage": "15Gi"}
    assert resources["limits"] == {"memory": "2Gi"}


def test_gpus_come_from_a_class_that_has_them() -> None:
    manifest = made(Submission("one", spec(gpus_per_worker=1), resource_class="gpu-a100"))
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["groupName"] == "gpu-a100"
    assert group["rayStartParams"].items() >= {"num-cpus": "1", "num-gpus": "1"}.items()
    pod = pods(manifest)["worker"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"gpu": "a100"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    assert "nodeSelector" not in pods(manifest)["head"]


def test_the_spec_travels_in_the_manifest_and_reads_back_unchanged() -> None:
    job = load_job("jobs/sweep.yaml", [], None)
    manifest = made(Submission("one", job))
    given = environment(pods(manifest)["head"]["containers"][0])
    assert given["GRAFT_JOB"] == "one"
    assert parse_job(parse_yaml(given["GRAFT_SPEC"], "x"), "x", None) == job
    assert sent_spec(manifest) == given["GRAFT_SPEC"]
    assert given["GRAFT_STORE"] == "s3://bucket/prefix"
    assert "GRAFT_SPEC" not in environment(pods(manifest)["worker"]["containers"][0])


def test_who_sends_a_job_travels_in_the_manifest() -> None:
    owner = Owner("alice$(x)@example.org", self_declared=False)
    given = environment(pods(made(Submission("one", spec(), owner=owner)))["head"]["containers"][0])
    assert given["GRAFT_OWNER"].replace("$$", "$") == owner.who
    assert given["GRAFT_OWNER_SELF_DECLARED"] == "false"
    assert "GRAFT_OWNER" not in environment(
        pods(made(Submission("one", spec())))["head"]["containers"][0]
    )


def test_a_sweep_gets_the_pods_of_all_trials_that_run_at_once() -> None:
    counts = [
        made(Submission("one", sweep(asked)))["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        for asked in (3, "auto")
    ]
    assert [group["replicas"] for group in counts] == [2 * 3, 2 * PROFILE.sweep_concurrency]
    (more,) = made(Submission("one", sweep(500)))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert more["replicas"] == 2 * count_trials(sweep(500))  # none stands idle


def test_every_pod_meets_restricted_pod_security_and_says_what_it_takes() -> None:
    for pod in pods(made(Submission("one", spec()))).values():
        assert pod["serviceAccountName"] == "graft"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["image"] == "graft:1"
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            # Beside what the node has for Ray's own copies of the store.
            disk = set(container["resources"]["requests"]) - {"cpu", "memory"}
            assert disk == ({"ephemeral-storage"} if "cache" in mounts_of(container) else set())
            assert container["envFrom"] == [{"secretRef": {"name": "graft-s3"}}]
            assert mounts_of(container) <= {volume["name"] for volume in pod["volumes"]}


def test_logs_are_shipped_from_head_and_workers_until_ray_has_ended() -> None:
    made_pods = pods(made(Submission("one", spec())))
    for name in ("head", "worker"):
        (ray,), (logs,) = made_pods[name]["containers"], made_pods[name]["initContainers"]
        assert ray["name"] == name
        assert logs["command"][:3] == ["graft", "ship-logs", "one"]
        assert logs["restartPolicy"] == "Always"  # Kubernetes' own sidecar, which it ends last
        drain = int(environment(ray)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert made_pods[name]["terminationGracePeriodSeconds"] > drain + LAST_TRIES_S + EVERY_S
        shared = {"name": "tmp", "mountPath": "/tmp"}
        assert shared in ray["volumeMounts"]
        assert shared in logs["volumeMounts"]


def test_a_cluster_has_deadlines_retries_and_a_token() -> None:
    job = made(Submission("one", spec()), retries=4, start_deadline_s=60, run_deadline_s=600)[
        "spec"
    ]
    assert job["backoffLimit"] == 4
    assert job["preRunningDeadlineSeconds"] == 60
    assert job["activeDeadlineSeconds"] == 600
    assert job["shutdownAfterJobFinishes"] is True
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "suspend" not in job


def test_autoscalers_leave_pods_where_they_are_but_those_of_a_class_that_says_so() -> None:
    evictable = PROFILE.classes | {"spot": ResourceClass(evictable=True)}
    for name, stays in (("cpu", True), ("spot", False)):
        submission = Submission("one", spec(), resource_class=name)
        cluster = made(submission, classes=evictable)["spec"]["rayClusterSpec"]
        head, worker = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
        annotations = {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }
        assert head["template"]["metadata"]["annotations"] == annotations
        assert worker["template"]["metadata"]["annotations"] == (annotations if stays else {})


def test_the_operator_follows_a_job_and_gives_a_lost_node_up_in_time() -> None:
    manifest = made(Submission("one", spec()))
    assert manifest["spec"]["submissionMode"] == "HTTPMode"  # no pod, no stream, that could end it
    for pod in pods(manifest).values():
        seconds = {
            toleration["key"]: toleration["tolerationSeconds"]
            for toleration in pod["tolerations"]
            if "tolerationSeconds" in toleration
        }
        # Before KubeRay 1.7 gives a job up for good whose head is silent for 300 s.
        assert seconds == {
            f"node.kubernetes.io/{state}": 30 for state in ("not-ready", "unreachable")
        }
    (head,), (worker,) = (pods(manifest)[name]["containers"] for name in ("head", "worker"))
    for container in (head, worker):
        hook = container["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["timeout", "15", "graft", "pod-ends", "one"]
    assert environment(head)["GRAFT_RETRIES"] == "2"
    # KubeRay holds its own for the pods of a new cluster alone.
    assert environment(head)["GRAFT_START_DEADLINE"] == "900"


@pytest.mark.slow
def test_a_spec_of_any_size_travels() -> None:
    keys = ("optimizer.lr", "optimizer.weight_decay", "label_smoothing", "clip_norm", "seed")
    trials = [{f"train.{key}": 1 / (3 + number) for key in keys} for number in range(600)]
    document = sweep(2).model_dump(mode="json", by_alias=True)
    for number, trial in enumerate(trials):
        trial["train.seed"] = number
    document |= {"space": {}, "search": {"kind": "list", "trials": trials}}
    large = parse_job(document, "test", Sweep)
    manifest = made(Submission("one", large))
    text = dump_job(large)
    assert travels_through_store(text)
    assert "GRAFT_SPEC" not in environment(pods(manifest)["head"]["containers"][0])
    assert sent_spec(manifest) is None
    assert (
        sent_digest(manifest) == spec_digest(text) != sent_digest(made(Submission("one", spec())))
    )
    # Linux takes no longer variable than 128 kB; its name counts.
    longest = max(
        len(value) for value in environment(pods(manifest)["head"]["containers"][0]).values()
    )
    assert longest < 1000


def test_what_a_namespace_adds() -> None:
    manifest = made(
        Submission("one", spec(), image="registry.example/graft:2"),
        queue="team",
        priority_class="low",
        store_endpoint="https://minio.example",
        store_ca="corporate",
        image_pull_secrets=("pull",),
        labels={"team": "vision"},
    )
    assert manifest["metadata"]["labels"] == {
        "team": "vision",
        "graft.dev/job": "one",
        "graft.dev/kind": "finetune",
        "kueue.x-k8s.io/queue-name": "team",
    }
    assert manifest["spec"]["suspend"] is True
    for pod in pods(manifest).values():
        assert pod["priorityClassName"] == "low"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["image"] == "registry.example/graft:2"
            given = environment(container)
            assert given["AWS_ENDPOINT_URL"] == "https://minio.example"
            assert given["AWS_CA_BUNDLE"] == "/etc/graft/ca/ca.crt"
            assert {"name": "ca", "mountPath": "/etc/graft/ca", "readOnly": True} in container[
                "volumeMounts"
            ]


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (
            Submission("one", spec(), resource_class="gpu-a10"),
            "unknown resource class 'gpu-a10'",
        ),
        (
            Submission("one", spec(gpus_per_worker=1)),
            "'cpu' has no GPUs; with GPUs: gpu-a100",
        ),
        (Submission("One", spec()), "job id 'One': expected a name for Kubernetes"),
        (Submission("1st", spec()), "job id '1st'"),
        (Submission("a" * 48, spec()), "at most 47 characters"),
        (
            Submission("one", spec(), image="evil:1"),
            "image evil:1 is not allowed here; allowed:",
        ),
        (
            Submission("one", spec(), image="registry.example/graft:a b"),
            "'registry.example/graft:a b' is no name of an image; expected such as",
        ),
        (
            Submission("one", spec(), image="registry.example/graft:"),
            "is no name of an image",
        ),
    ],
)
def test_what_cannot_be_had(submission: Submission, message: str) -> None:
    with pytest.raises((SpecError, InputError)) as error:
        rayjob(submission, PROFILE)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_quantities() -> None:
    assert amount("500m") == 0.5
    assert amount("2Gi") == 2 * 2**30
    assert amount("1.5") == 1.5
    assert times("250m", 3) == "750m"
    assert times("4", 2) == "8"


@pytest.mark.parametrize(
    "image",
    ["graft", "graft:2", "localhost:5000/team/graft:v1.2-a", f"a.example/graft@sha256:{'0' * 64}"],
)
def test_names_of_images(image: str) -> None:
    profile = PROFILE.model_copy(update={"allowed_images": ("*",)})
    assert profile.image_for(image) == image
