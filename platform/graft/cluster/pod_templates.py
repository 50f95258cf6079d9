"""The pods of a job: what they all have, from a namespace's profile; pure."""

from dataclasses import dataclass
from typing import Any

from graft.cluster.profile import HeadNode, Pod, Profile, ResourceClass

JOB_LABEL = "graft.dev/job"
TMP = "/tmp"  # noqa: S108 - a volume of the pod's own
LOGS = f"{TMP}/ray/session_latest/logs"
CA_FILE = "/etc/graft/ca/ca.crt"
SHIPPER = Pod(cpu="10m", memory="192Mi")
"""What the container requests that ships a pod's logs."""
SHIPPER_CPU_LIMIT = "500m"
"""Its limit, where containers have one: it mostly waits, and starts a Python."""
DRAIN_S = 30
"""Seconds for which a pod that is told to end goes on: Ray tells its workers, which commit."""
HOOK_S = 15
"""Seconds that a pod's hook may take, of those that it has to end."""
GRACE_S = 75
"""Seconds after which such a pod is killed: its hook, Ray's drain, and the end of its logs."""
SILENCE_S = 20
"""Seconds after which Ray takes a head for lost that answers no packet; for its own 120 the workers
would know nothing of the next one."""
LOST_NODE_S = 30
"""Seconds after which a pod is given up whose node does not answer. KubeRay 1.7 gives a job up for
good whose head is silent for 300 seconds; Kubernetes itself would wait as long."""
_LOST_NODE = [
    {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": LOST_NODE_S,
    }
    for condition in ("not-ready", "unreachable")
]


@dataclass(frozen=True)
class Common:
    """What all pods of a job share."""

    job: str
    """Its id."""
    profile: Profile
    image: str
    labels: dict[str, str]
    """Labels of everything that is made for the job."""

    @property
    def environment(self) -> list[dict[str, Any]]:
        """Environment variables with which a pod uses the store."""
        variables = {"GRAFT_STORE": self.profile.store, "GRAFT_CACHE": "/cache"}
        if self.profile.store_endpoint:
            variables["AWS_ENDPOINT_URL"] = self.profile.store_endpoint
        if self.profile.store_ca:
            variables["AWS_CA_BUNDLE"] = CA_FILE
        return [{"name": name, "value": value} for name, value in variables.items()]


def ray_template(
    common: Common,
    container: dict[str, Any],
    node: HeadNode | ResourceClass,
) -> dict[str, Any]:
    """Return the template of a pod of the Ray cluster, with a sidecar that ships its logs.

    The sidecar is one of Kubernetes' own: it ends after Ray, so that the last line is shipped.
    """
    container["resources"]["requests"]["ephemeral-storage"] = _disk(node)
    # This many GB are a little less than the limit in GiB, beyond which a pod is evicted.
    container["env"].append({"name": "GRAFT_CACHE_GB", "value": node.cache.removesuffix("Gi")})
    container["volumeMounts"] += [
        {"name": "cache", "mountPath": "/cache"},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    # Kubernetes calls this before it ends a pod, in an eviction, a node's drain or a preemption; a
    # pod that dies calls nothing. It may take a while where the store does not answer.
    command = ["timeout", str(HOOK_S), "graft", "pod-ends", common.job]
    container["lifecycle"] = {"preStop": {"exec": {"command": command}}}
    shipper = container_of("logs", common, SHIPPER)
    shipper["command"] = ["graft", "ship-logs", common.job, LOGS]
    shipper["restartPolicy"] = "Always"
    if common.profile.pods.cpu_limits:
        shipper["resources"]["limits"]["cpu"] = SHIPPER_CPU_LIMIT
    container["env"] += [
        {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(DRAIN_S)},
        {"name": "RAY_grpc_client_keepalive_timeout_ms", "value": str(SILENCE_S * 1000)},
    ]
    template = _template(common, [container], node)
    template["spec"]["initContainers"] = [shipper]
    template["spec"]["tolerations"] = [*_LOST_NODE, *template["spec"].get("tolerations", [])]
    template["spec"]["volumes"] += [
        {"name": "cache", "emptyDir": {"sizeLimit": node.cache}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": node.shared_memory}},
    ]
    template["spec"]["terminationGracePeriodSeconds"] = GRACE_S
    return template


def _template(
    common: Common, containers: list[dict[str, Any]], node: HeadNode | ResourceClass
) -> dict[str, Any]:
    """Return a pod's template, which meets Kubernetes' strictest pod security standard.

    `node`: says which nodes the pod may run on.
    """
    profile = common.profile
    spec: dict[str, Any] = {
        "serviceAccountName": profile.service_account,
        "automountServiceAccountToken": False,
        "securityContext": _security(profile.pods.run_as_user),
        "containers": containers,
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": node.tmp}}],
    }
    if profile.store_claim:
        claim = {"claimName": profile.store_claim}
        spec["volumes"].append({"name": "store", "persistentVolumeClaim": claim})
    if profile.store_ca:
        spec["volumes"].append({"name": "ca", "configMap": {"name": profile.store_ca}})
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.image_pull_secrets]
    if profile.priority_class:
        spec["priorityClassName"] = profile.priority_class
    if node.node_selector:
        spec["nodeSelector"] = dict(node.node_selector)
    if node.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in node.tolerations]
    if profile.pods.affinity:
        spec["affinity"] = dict(profile.pods.affinity)
    if profile.pods.scheduler_name:
        spec["schedulerName"] = profile.pods.scheduler_name
    if profile.pods.topology_spread_constraints:
        same_job = {"labelSelector": {"matchLabels": {JOB_LABEL: common.job}}}
        spec["topologySpreadConstraints"] = [
            same_job | constraint for constraint in profile.pods.topology_spread_constraints
        ]
    labels = profile.pods.labels | common.labels
    metadata = {"labels": labels, "annotations": dict(profile.pods.annotations)}
    return {"metadata": metadata, "spec": spec}


def _security(user: int | None) -> dict[str, Any]:
    """Return a pod's security context; None: the platform adds a user that it may have."""
    strict = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if user is None:
        return strict
    # A volume with many files is changed to the group once, not at each start of a pod.
    ids = {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return strict | ids | {"fsGroupChangePolicy": "OnRootMismatch"}


def _disk(node: HeadNode | ResourceClass) -> str:
    """Return what a Ray pod requests of its node's disk."""
    return f"{sum(int(size.removesuffix('Gi')) for size in (node.cache, node.tmp))}Gi"


def container_of(name: str, common: Common, pod: Pod) -> dict[str, Any]:
    """Return a container that uses the store."""
    profile = common.profile
    container: dict[str, Any] = {
        "name": name,
        "image": common.image,
        "imagePullPolicy": profile.image_pull_policy,
        "env": [
            {"name": "HOME", "value": TMP},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            *(dict(variable) for variable in profile.pods.env),
            *common.environment,
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
    if profile.pods.cpu_limits:
        container["resources"]["limits"]["cpu"] = pod.cpu
    if profile.pods.env_from:
        container["envFrom"] = [dict(source) for source in profile.pods.env_from]
    if profile.store_secret:
        container.setdefault("envFrom", []).append({"secretRef": {"name": profile.store_secret}})
    if profile.store_claim:
        container["volumeMounts"].append({"name": "store", "mountPath": profile.store})
    if profile.store_ca:
        mount = {"name": "ca", "mountPath": CA_FILE.rpartition("/")[0], "readOnly": True}
        container["volumeMounts"].append(mount)
    return container
