"""From a job's spec and a namespace's profile to what Kubernetes is asked for; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graft.cluster.profile import Head, Pod, Profile, ResourceClass, times
from graft.errors import SpecError
from graft.spec import Job, Scaling, Sweep, TransferReport, dump_job
from graft.sweep.space import count_trials

RAY_VERSION = "2.60.0"
GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
JOB_LABEL = "graft.dev/job"
KIND_LABEL = "graft.dev/kind"
JOB_ID = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
TMP = "/tmp"  # noqa: S108 - a volume of the pod's own
LOGS = f"{TMP}/ray/session_latest/logs"
CA_FILE = "/etc/graft/ca/ca.crt"
USER = 1000
"""Of the image."""
SHIPPER = Pod(cpu="10m", memory="192Mi")
NAME_LENGTH = 47
"""KubeRay appends to a RayJob's name, and Kubernetes takes 63 characters."""
GRACE_S = 20
"""For the last logs to be shipped once a pod is to end."""
STAYING = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""On heads: a job that loses its head goes back to its last checkpoint."""


@dataclass(frozen=True)
class Submission:
    """What a person wants to have run."""

    job: str
    """The job's id."""
    spec: Job
    image: str | None = None
    """null: the profile's."""
    resource_class: str | None = None
    """null: the profile's default one."""
    where: str | None = None
    """The cluster that it is sent to, for people to read, which the job records."""
    cluster: str | None = None
    """That cluster's own name for itself, likewise."""


def rayjob(submission: Submission, profile: Profile) -> dict[str, Any]:
    """Return the RayJob manifest of a job, without a namespace.

    The head has no CPUs for Ray's tasks: it holds the driver. Every worker of the spec's
    `scaling` is a pod of its own, which requests what its resource class says and gives Ray
    what the spec says.

    Raises:
        SpecError: the id is no name for Kubernetes, or the class has not what the spec asks for.
        InputError: the profile does not allow the image.
    """
    check_id(submission.job)
    scaling = scaling_of(submission.spec)
    name, pool = profile.resource_class(submission.resource_class)
    if scaling.gpus_per_worker and not pool.gpu:
        raise SpecError(
            f"scaling.gpus_per_worker is {scaling.gpus_per_worker}; resource class '{name}' has no "
            f"GPUs{_with_gpus(profile)}"
        )
    labels = profile.labels | {JOB_LABEL: submission.job, KIND_LABEL: submission.spec.kind}
    common = _Common(profile, profile.image_for(submission.image), labels)
    pods = pods_of(submission.spec, profile)
    spec: dict[str, Any] = {
        "submissionMode": "K8sJobMode",
        "entrypoint": "graft run-job",
        "backoffLimit": profile.retries,
        "preRunningDeadlineSeconds": profile.start_deadline_s,
        "activeDeadlineSeconds": profile.run_deadline_s,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": profile.keep_finished_s,
        "submitterPodTemplate": _template(
            common,
            [_bare_container("submitter", common, profile.submitter)],
            profile.head,
            restart="Never",
        ),
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104
                "template": _head_template(submission, profile, common),
            },
            "workerGroupSpecs": [
                {
                    "groupName": name,
                    "replicas": pods,
                    "minReplicas": pods,
                    "maxReplicas": pods,
                    "rayStartParams": _counted(scaling),
                    "template": _worker_template(submission, profile, common, pool),
                }
            ],
        },
    }
    if profile.queue:
        labels = labels | {"kueue.x-k8s.io/queue-name": profile.queue}
        spec["suspend"] = True  # until Kueue admits it
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {"name": submission.job, "labels": labels},
        "spec": spec,
    }


def sent_spec(rayjob: Mapping[str, Any]) -> str | None:
    """Return the text of the spec in a manifest of `rayjob`; None for one made by others."""
    if "rayClusterSpec" not in rayjob["spec"]:
        return None
    template = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    given = template["spec"]["containers"][0].get("env", [])
    sent = (one["value"] for one in given if one["name"] == "GRAFT_SPEC")
    return next((value.replace("$$", "$") for value in sent), None)


def scaling_of(spec: Job) -> Scaling:
    """Return what a job's workers take; a sweep's and a report's are those of one trial."""
    return spec.base.scaling if isinstance(spec, Sweep) else spec.scaling


def pods_of(spec: Job, profile: Profile) -> int:
    """Return how many worker pods a job gets: a sweep, those of all trials that run at once."""
    workers = scaling_of(spec).workers
    if isinstance(spec, TransferReport):
        return workers * profile.sweep_concurrency
    if not isinstance(spec, Sweep):
        return workers
    asked = spec.budget.concurrency
    at_once = profile.sweep_concurrency if asked == "auto" else asked
    return workers * min(at_once, count_trials(spec))


def _counted(scaling: Scaling) -> dict[str, str]:
    """Return what Ray counts in a worker, whatever the pod requests."""
    counted = {"num-cpus": str(scaling.cpus_per_worker)}
    if scaling.gpus_per_worker:
        counted["num-gpus"] = str(scaling.gpus_per_worker)
    return counted


def _head_template(submission: Submission, profile: Profile, common: "_Common") -> dict[str, Any]:
    container = _container("head", common, profile.head)
    cpus = pods_of(submission.spec, profile) * scaling_of(submission.spec).cpus_per_worker
    container["env"] += [
        {"name": "GRAFT_JOB", "value": submission.job},
        # Kubernetes would put variables in place of $(NAME).
        {"name": "GRAFT_SPEC", "value": dump_job(submission.spec).replace("$", "$$")},
        {"name": "GRAFT_CPUS", "value": str(cpus)},
    ]
    if submission.where:
        container["env"].append({"name": "GRAFT_WHERE", "value": submission.where})
    if submission.cluster:
        container["env"].append({"name": "GRAFT_CLUSTER", "value": submission.cluster})
    container["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
    ]
    template = _ray_template(submission, common, container, profile.head, shared_memory=None)
    template["metadata"]["annotations"] = dict(STAYING)
    return template


def _worker_template(
    submission: Submission, profile: Profile, common: "_Common", pool: ResourceClass
) -> dict[str, Any]:
    scaling = scaling_of(submission.spec)
    pod = Pod(cpu=times(pool.cpu, scaling.cpus_per_worker), memory=pool.memory)
    container = _container("worker", common, pod)
    if scaling.gpus_per_worker and pool.gpu:
        for side in ("requests", "limits"):
            container["resources"][side][pool.gpu] = str(scaling.gpus_per_worker)
    return _ray_template(submission, common, container, pool, pool.shared_memory)


@dataclass(frozen=True)
class _Common:
    """What all pods of a job have in common."""

    profile: Profile
    image: str
    labels: dict[str, str]

    @property
    def environment(self) -> list[dict[str, Any]]:
        """What a pod has to know of the store."""
        given = {"GRAFT_STORE": self.profile.store, "GRAFT_CACHE": "/cache"}
        if self.profile.store_endpoint:
            given["AWS_ENDPOINT_URL"] = self.profile.store_endpoint
        if self.profile.store_ca:
            given["AWS_CA_BUNDLE"] = CA_FILE
        return [{"name": name, "value": value} for name, value in given.items()]


def _ray_template(
    submission: Submission,
    common: _Common,
    container: dict[str, Any],
    on: Head | ResourceClass,
    shared_memory: str | None,
) -> dict[str, Any]:
    """Return the template of a pod of Ray's, with what ships its logs beside it."""
    container["resources"]["requests"]["ephemeral-storage"] = on.cache
    # As many GB are a little less than the limit, beyond which a pod is evicted.
    container["env"].append({"name": "GRAFT_CACHE_GB", "value": on.cache.removesuffix("Gi")})
    memory = {"medium": "Memory"} | ({"sizeLimit": shared_memory} if shared_memory else {})
    container["volumeMounts"] += [
        {"name": "cache", "mountPath": "/cache"},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    shipper = _container("logs", common, SHIPPER)
    shipper["command"] = ["graft", "ship-logs", submission.job, LOGS]
    template = _template(common, [container, shipper], on)
    template["spec"]["volumes"] += [
        {"name": "cache", "emptyDir": {"sizeLimit": on.cache}},
        {"name": "shm", "emptyDir": memory},
    ]
    template["spec"]["terminationGracePeriodSeconds"] = GRACE_S
    return template


def _template(
    common: _Common,
    containers: list[dict[str, Any]],
    on: Head | ResourceClass,
    restart: str | None = None,
) -> dict[str, Any]:
    """Return a pod's template, as the strictest pod security asks for.

    `on`: says which nodes it may run on.
    """
    profile = common.profile
    spec: dict[str, Any] = {
        "serviceAccountName": profile.service_account,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    if profile.store_ca:
        spec["volumes"].append({"name": "ca", "configMap": {"name": profile.store_ca}})
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.image_pull_secrets]
    if profile.priority_class:
        spec["priorityClassName"] = profile.priority_class
    if on.node_selector:
        spec["nodeSelector"] = dict(on.node_selector)
    if on.tolerations:
        spec["tolerations"] = [dict(one) for one in on.tolerations]
    if restart:
        spec["restartPolicy"] = restart
    return {"metadata": {"labels": dict(common.labels)}, "spec": spec}


def _container(name: str, common: _Common, pod: Pod) -> dict[str, Any]:
    """Return a container that uses the store."""
    profile = common.profile
    container = _bare_container(name, common, pod)
    container["env"] += common.environment
    if profile.store_secret:
        container["envFrom"] = [{"secretRef": {"name": profile.store_secret}}]
    if profile.store_ca:
        mount = {"name": "ca", "mountPath": CA_FILE.rpartition("/")[0], "readOnly": True}
        container["volumeMounts"].append(mount)
    return container


def _bare_container(name: str, common: _Common, pod: Pod) -> dict[str, Any]:
    return {
        "name": name,
        "image": common.image,
        "imagePullPolicy": common.profile.image_pull_policy,
        "env": [
            {"name": "HOME", "value": TMP},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        ],
        "resources": {
            "requests": {"cpu": pod.cpu, "memory": pod.memory},
            "limits": {"memory": pod.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}],
    }


def check_id(job: str) -> None:
    """Find out whether a job may have this id.

    Raises:
        SpecError: Kubernetes takes no such name.
    """
    if not JOB_ID.fullmatch(job) or len(job) > NAME_LENGTH:
        raise SpecError(
            f"job id '{job}': expected a name for Kubernetes: lower-case letters, digits and '-', "
            f"a letter first, at most {NAME_LENGTH} characters"
        )


def _with_gpus(profile: Profile) -> str:
    names = sorted(name for name, pool in profile.classes.items() if pool.gpu)
    return f"; with GPUs: {', '.join(names)}" if names else ""
