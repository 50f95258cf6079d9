"""The profile: what a namespace gives jobs, read from the chart's ConfigMap."""

import re
from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Any

from kubernetes.utils import parse_quantity
from pydantic import Field, StringConstraints, ValidationError

from graft.errors import InputError, SpecError
from graft.spec import Section, nearest
from graft.spec.section import Positive

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes quantity: CPUs (`500m`, `2`) or bytes (`4Gi`)."""
Gibibytes = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*Gi$")]
"""A quantity in whole Gi."""

IMAGE = re.compile(
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""What a node can pull: HOST:PORT/PATH:TAG@DIGEST, of which only the path is needed."""


SETTINGS = {
    "jobs.retries": "retries",
    "jobs.startDeadlineSeconds": "start_deadline_s",
    "jobs.runDeadlineSeconds": "run_deadline_s",
    "jobs.queue": "queue",
    "jobs.priorityClassName": "priority_class",
}
"""What one job may have otherwise, by the names of the chart's values."""


class Pod(Section):
    """What a pod requests of its node."""

    cpu: Quantity
    memory: Quantity
    """Request and limit: a pod that takes more is killed."""


class HeadNode(Pod):
    """What a cluster's head node requests, and on which nodes all pods but workers run."""

    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, which is a part of `memory`."""
    cache: Gibibytes = "10Gi"
    """Size of /cache; a sweep caches activations where they fit into its head's, too."""
    tmp: Gibibytes = "5Gi"
    """Size of /tmp: Ray's logs, and objects that its memory does not hold."""
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[dict[str, Any], ...] = ()


class ResourceClass(Section):
    """What the workers of a class request, apart from what Ray counts in them."""

    cpu: Quantity = "1"
    """CPU requested for each CPU that Ray counts (`scaling.cpus_per_worker`)."""
    memory: Quantity = "8Gi"
    """Request and limit of a worker."""
    gpu: str | None = None
    """The resource that one GPU of `scaling.gpus_per_worker` is, `nvidia.com/gpu`; null: the class
    has no GPUs."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm, which is a part of `memory`: Ray keeps its objects there."""
    cache: Gibibytes = "10Gi"
    """Size of /cache, requested of the node's disk."""
    tmp: Gibibytes = "5Gi"
    """Size of /tmp, requested of the node's disk, too."""
    runtime_class: str | None = None
    """RuntimeClass of its pods; null: the nodes' own."""
    autoscaled: bool = False
    """Whether nodes for it are added when they are asked for; else one has to exist."""
    evictable: bool = False
    """Whether a cluster's autoscaler may move its pods to save nodes; spot nodes are so anyway."""
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[dict[str, Any], ...] = ()


class PodSettings(Section):
    """What all pods have beside what they run, in Kubernetes' own words."""

    run_as_user: int | None = 1000
    """User and group of pods; null: the platform gives a namespace its own, as OpenShift does."""
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})
    cpu_limits: bool = False
    """Whether what a container requests of CPUs is its limit, too."""
    env: tuple[dict[str, Any], ...] = ()
    """More environment variables, each with a value, or where it is taken from."""
    env_from: tuple[dict[str, Any], ...] = ()
    """Secrets and ConfigMaps whose keys are variables."""
    affinity: dict[str, Any] = Field(default={})
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()
    """One without a `labelSelector` counts the pods of the same job."""
    scheduler_name: str | None = None


class Profile(Section):
    """What a namespace gives jobs. Every release reads those that other releases made.

    A key is removed, or added with a default; a release whose key may not be ignored raises
    `min_client` in its chart.
    """

    version: str | None = None
    """Release of the image, which every job runs; null: a release that did not say so."""
    min_client: str | None = None
    """The oldest release of `graft submit` whose jobs are right: it may ignore what it does not
    know of this profile."""
    takes_jobs: bool = True
    """Whether jobs may be sent; those that were sent before go on."""
    image: str
    allowed_images: tuple[str, ...] = ()
    """Patterns (`registry.example/graft:*`) of what `--image` may name beside it."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    store: str
    """URI of the store."""
    store_endpoint: str | None = None
    """URL of an S3 service that is not Amazon's."""
    store_secret: str | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; null: the service account has
    credentials."""
    store_claim: str | None = None
    """PersistentVolumeClaim that every pod finds at the directory `store`; null: it is a bucket."""
    store_ca: str | None = None
    """ConfigMap whose `ca.crt` the store's certificate is checked against; null: the
    image's authorities."""
    service_account: str
    classes: Annotated[dict[str, ResourceClass], Field(min_length=1)]
    default_class: str
    head: HeadNode = HeadNode(cpu="1", memory="4Gi")
    pods: PodSettings = PodSettings()
    priority_class: str | None = None
    queue: str | None = None
    """Kueue's LocalQueue."""
    labels: dict[str, str] = Field(default={})
    """Labels of everything that is made for a job."""
    sweep_concurrency: Positive = 4
    """Trials of a sweep that run at once, where its `budget.concurrency` is auto."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How many attempts of a job may fail or die before it is given up; those whose pods were told
    to end, by an eviction or a preemption, do not count."""
    start_deadline_s: Positive = 900
    """Seconds within which the pods of each attempt have to run."""
    run_deadline_s: Positive = 7 * 24 * 3600
    """Seconds within which each attempt has to end; after that there is no other."""
    keep_finished_s: Annotated[int, Field(ge=0)] = 0
    """Seconds for which a finished job's pods stay, for a look inside."""
    keep_record_s: Annotated[int, Field(ge=0)] = 7 * 24 * 3600
    """Seconds after which the cluster has nothing of a finished job any more, once another job is
    sent; the store has."""

    def resource_class(self, name: str | None) -> tuple[str, ResourceClass]:
        """Return a class and its name; None: the default class.

        Raises:
            SpecError: there is no class of that name.
        """
        name = name or self.default_class
        if name not in self.classes:
            raise SpecError(
                f"unknown resource class '{name}'{nearest(name, list(self.classes))}; "
                f"this namespace has: {', '.join(sorted(self.classes))}"
            )
        return name, self.classes[name]

    def with_settings(self, settings: Mapping[str, str]) -> "Profile":
        """Return the profile with settings of one job, by the names that the chart gives them.

        Raises:
            SpecError: there is no such setting, or not with such a value.
        """
        changes: dict[str, str] = {}
        for name, value in settings.items():
            if name not in SETTINGS:
                raise SpecError(
                    f"unknown setting '{name}'{nearest(name, list(SETTINGS))}; "
                    f"there are: {', '.join(SETTINGS)}"
                )
            changes[SETTINGS[name]] = value
        try:
            return Profile.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            problem = error.errors()[0]
            names = {field: name for name, field in SETTINGS.items()}
            name = names[str(problem["loc"][0])]
            raise SpecError(f"{name}={settings[name]}: {problem['msg']}") from error

    def image_for(self, image: str | None) -> str:
        """Return the image of a job that asks for one; None: the profile's.

        Raises:
            InputError: it is no name of an image, or the profile does not allow it.
        """
        if image is None or image == self.image:
            return self.image
        if not IMAGE.fullmatch(image):  # its pods would wait for ever
            raise InputError(
                f"'{image}' is no name of an image; expected such as registry.example/graft:0.2.0"
            )
        if not any(fnmatchcase(image, pattern) for pattern in self.allowed_images):
            allowed = ", ".join((self.image, *self.allowed_images))
            raise InputError(f"image {image} is not allowed here; allowed: {allowed}")
        return image


def amount(quantity: str) -> Decimal:
    """Return a quantity as a number of CPUs, bytes or devices."""
    number: Decimal = parse_quantity(quantity)
    return number


def object_store_bytes(shared_memory: str) -> int:
    """Return what Ray's object store takes of /dev/shm: the rest is for loaders and NCCL.

    Ray by itself takes 30 % of a pod's memory and, where that is more than /dev/shm, goes to disk.
    """
    return int(amount(shared_memory) * 3 / 4)


def times(quantity: str, count: int) -> str:
    """Return a quantity of CPUs times `count`: `750m` for `250m` and 3, `1` for `250m` and 4."""
    milli = round(amount(quantity) * count * 1000)
    return f"{milli}m" if milli % 1000 else str(milli // 1000)
