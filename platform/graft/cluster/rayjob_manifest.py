"""From a job's spec and a namespace's profile to what Kubernetes is asked for; pure."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.cluster.job_id import check_id
from graft.cluster.job_records import UNKNOWN_CLUSTER, ClusterIdentity, Owner
from graft.cluster.pod_templates import JOB_LABEL, Common, container_of, ray_template
from graft.cluster.profile import (
    Pod,
    Profile,
    ResourceClass,
    object_store_bytes,
    times,
)
from graft.errors import SpecError
from graft.spec import Finetune, Job, Scaling, Sweep, TransferReport, dump_job
from graft.sweep.space import count_trials

RAY_VERSION = "2.60.0"
GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
KIND_LABEL = "graft.dev/kind"
OWNER = "graft.dev/owner"
"""Annotation with who sent a job, and label with as much of it as a label may have."""
SPEC_ANNOTATION = "graft.dev/spec-sha256"
NOT_EVICTED = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""Annotations of pods that are not to be moved: what loses one goes back to its last checkpoint."""
LARGEST_VARIABLE = 96 << 10
"""Bytes of a spec beyond which it travels through the store: Linux takes no variable of 128 kB."""


@dataclass(frozen=True)
class Submission:
    """A job that a person wants to run."""

    job: str
    """Its id."""
    spec: Job
    image: str | None = None
    """None: the profile's image."""
    resource_class: str | None = None
    """None: the profile's default class."""
    cluster: ClusterIdentity = UNKNOWN_CLUSTER
    """The cluster that it is sent to, which the job records."""
    owner: Owner | None = None
    """Who sends it; None: not known."""
    amended: Finetune | None = None
    """The spec that it goes on with, where that is another one than it was begun with."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the job has otherwise than the profile says, see `Profile.with_settings`."""

    @property
    def current(self) -> Job:
        """The spec that its workers train by."""
        return self.amended or self.spec

    @property
    def scaling(self) -> Scaling:
        """What its workers take; of a sweep and a report, what those of a trial take."""
        return scaling_of(self.current)


def rayjob(submission: Submission, profile: Profile) -> dict[str, Any]:
    """Return the RayJob manifest of a job, without a namespace.

    The head runs the driver and has no CPUs for Ray's tasks. Each worker of the spec's `scaling`
    is a pod: it requests from Kubernetes what its resource class says, and offers Ray what the
    spec says.

    Raises:
        SpecError: the id is no name for Kubernetes, or the class lacks what the spec asks for.
        InputError: the profile does not allow the image.
    """
    check_id(submission.job)
    name, pool = _workers_class(submission, profile)
    labels = profile.labels | {JOB_LABEL: submission.job, KIND_LABEL: submission.spec.kind}
    annotations = {SPEC_ANNOTATION: spec_digest(dump_job(submission.spec))}
    if submission.owner:
        labels |= {OWNER: label_value(submission.owner.who)}
        annotations[OWNER] = submission.owner.who
    common = Common(submission.job, profile, profile.image_for(submission.image), labels)
    spec: dict[str, Any] = {
        # The operator starts the driver, and asks how it stands. In the other modes a submitter
        # follows the driver's log, and the job fails where that stream ends, whyever it does.
        "submissionMode": "HTTPMode",
        "entrypoint": "graft run-job",
        "backoffLimit": profile.retries,
        "preRunningDeadlineSeconds": profile.start_deadline_s,
        "activeDeadlineSeconds": profile.run_deadline_s,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": profile.keep_finished_s,
        "rayClusterSpec": _ray_cluster(submission, common, name, pool),
    }
    if profile.queue:
        labels = labels | {"kueue.x-k8s.io/queue-name": profile.queue}
        spec["suspend"] = True  # until Kueue admits it
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": submission.job,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    }


def _workers_class(submission: Submission, profile: Profile) -> tuple[str, ResourceClass]:
    """Return the resource class of a job's workers, by name."""
    name, pool = profile.resource_class(submission.resource_class)
    gpus = submission.scaling.gpus_per_worker
    if gpus and not pool.gpu:
        with_gpus = sorted(key for key, other in profile.classes.items() if other.gpu)
        hint = f"; with GPUs: {', '.join(with_gpus)}" if with_gpus else ""
        raise SpecError(
            f"scaling.gpus_per_worker is {gpus}; resource class '{name}' has no GPUs{hint}"
        )
    return name, pool


def _ray_cluster(
    submission: Submission, common: Common, name: str, pool: ResourceClass
) -> dict[str, Any]:
    """Return the Ray cluster of a job: its head, and workers of the class `name`."""
    pods = worker_pods(submission.current, common.profile)
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",
                "dashboard-host": "0.0.0.0",  # noqa: S104
                "object-store-memory": str(object_store_bytes(common.profile.head.shared_memory)),
            },
            "template": _head_template(submission, common, name, pods),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": pods,
                "minReplicas": pods,
                "maxReplicas": pods,
                "rayStartParams": _ray_start_params(submission.scaling, pool),
                "template": _worker_template(submission, common, pool),
            }
        ],
    }


def label_value(text: str) -> str:
    """Return as much of a text as a label's value may have: 63 letters, digits, `-`, `_`, `.`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:63].strip("._-")


def travels_through_store(spec: str) -> bool:
    """Whether the text of a spec is too long for a pod's environment."""
    return len(spec.encode()) > LARGEST_VARIABLE


def spec_digest(spec: str) -> str:
    """Return what tells the specs of two jobs apart, and fits an annotation."""
    return hashlib.sha256(spec.encode()).hexdigest()


def sent_digest(rayjob: Mapping[str, Any]) -> str | None:
    """Return the digest of the spec that a RayJob was made of; None where `rayjob` did not."""
    annotations: Mapping[str, str] = rayjob["metadata"].get("annotations") or {}
    if digest := annotations.get(SPEC_ANNOTATION):
        return digest
    spec = sent_spec(rayjob)  # a release before wrote no annotation
    return spec and spec_digest(spec)


def sent_spec(rayjob: Mapping[str, Any]) -> str | None:
    """Return the text of the spec in a RayJob's manifest; None where it is in the store alone."""
    if "rayClusterSpec" not in rayjob["spec"]:
        return None
    template = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    for variable in template["spec"]["containers"][0].get("env", []):
        if variable["name"] == "GRAFT_SPEC":
            return str(variable["value"]).replace("$$", "$")
    return None


def scaling_of(spec: Job) -> Scaling:
    """Return what a job's workers take; of a sweep and a report, what those of a trial take."""
    return spec.base.scaling if isinstance(spec, Sweep) else spec.scaling


def worker_pods(spec: Job, profile: Profile) -> int:
    """Return how many worker pods a job gets; a sweep gets those of all trials that run at once."""
    workers = scaling_of(spec).workers
    if isinstance(spec, TransferReport):
        return workers * profile.sweep_concurrency
    if not isinstance(spec, Sweep):
        return workers
    concurrency = spec.budget.concurrency
    if concurrency == "auto":
        concurrency = profile.sweep_concurrency
    return workers * min(concurrency, count_trials(spec))


def _ray_start_params(scaling: Scaling, pool: ResourceClass) -> dict[str, str]:
    """Return the CPUs and GPUs that Ray counts in a worker, whatever its pod requests."""
    params = {
        "num-cpus": str(scaling.cpus_per_worker),
        "object-store-memory": str(object_store_bytes(pool.shared_memory)),
    }
    if scaling.gpus_per_worker:
        params["num-gpus"] = str(scaling.gpus_per_worker)
    return params


def _head_template(
    submission: Submission, common: Common, class_name: str, workers: int
) -> dict[str, Any]:
    head = common.profile.head
    container = container_of("head", common, head)
    cpus = workers * submission.scaling.cpus_per_worker
    container["env"] += [
        {"name": "GRAFT_JOB", "value": submission.job},
        {"name": "GRAFT_CPUS", "value": str(cpus)},
        {"name": "GRAFT_RETRIES", "value": str(common.profile.retries)},
        {"name": "GRAFT_START_DEADLINE", "value": str(common.profile.start_deadline_s)},
        {"name": "GRAFT_CLASS", "value": class_name},
    ]
    if submission.image:
        container["env"].append({"name": "GRAFT_IMAGE", "value": submission.image})
    if not travels_through_store(text := dump_job(submission.spec)):
        # Kubernetes would put variables in place of $(NAME).
        container["env"].append({"name": "GRAFT_SPEC", "value": text.replace("$", "$$")})
    gpus = workers * submission.scaling.gpus_per_worker
    if gpus:
        container["env"].append({"name": "GRAFT_GPUS", "value": str(gpus)})
    if submission.cluster.place:
        container["env"].append({"name": "GRAFT_WHERE", "value": submission.cluster.place})
    if submission.cluster.uid:
        container["env"].append({"name": "GRAFT_CLUSTER", "value": submission.cluster.uid})
    if submission.owner:
        for name, value in submission.owner.environment.items():
            container["env"].append({"name": name, "value": value.replace("$", "$$")})
    container["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
    ]
    template = ray_template(common, container, head)
    template["metadata"]["annotations"] |= NOT_EVICTED
    return template


def _worker_template(submission: Submission, common: Common, pool: ResourceClass) -> dict[str, Any]:
    scaling = submission.scaling
    pod = Pod(cpu=times(pool.cpu, scaling.cpus_per_worker), memory=pool.memory)
    container = container_of("worker", common, pod)
    if scaling.gpus_per_worker and pool.gpu:
        for side in ("requests", "limits"):
            container["resources"][side][pool.gpu] = str(scaling.gpus_per_worker)
    template = ray_template(common, container, pool)
    if pool.runtime_class:
        template["spec"]["runtimeClassName"] = pool.runtime_class
    if not pool.evictable:
        template["metadata"]["annotations"] |= NOT_EVICTED
    return template
