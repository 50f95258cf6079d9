"""A team on the cluster: a namespace with Graft's chart, one of its people, images and a job."""

import json
import re
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.e2e.cluster import Cluster

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "graft"
START_DEADLINE_S = 120


@dataclass(frozen=True)
class Team:
    """A namespace with Graft's chart, and what its people have in the store."""

    cluster: Cluster
    namespace: str
    kubeconfig: str
    """Of one of its people, who may do what the chart lets submitters do, and nothing else."""
    images: Path
    """A folder of labelled images, imported as `photos`."""
    spec: Path
    """A finetune spec for them."""

    def graft(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run graft as one of the team."""
        return self.cluster.graft(*arguments, **{"KUBECONFIG": self.kubeconfig} | environment)

    def submit(self, *arguments: str) -> dict[str, Any]:
        """Submit the spec and wait; return the job's document."""
        done = self.graft("submit", str(self.spec), "--wait", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        print(done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def champion(self, model: str) -> str:
        """Have a version of a model, trained if need be, that `champion` points at; return it."""
        found = self.cluster.graft("models", "show", model, "--json")
        if found.returncode:
            version = str(self.submit("--set", f"register.model={model}")["model"])
        else:
            version = str(json.loads(found.stdout)["model"])
        # --force: it may be worse than what another scenario has promoted.
        words = ("models", "promote", version, "--alias", "champion", "--force")
        done = self.cluster.graft(*words)
        assert done.returncode == 0, done.stderr
        return version

    def new_id(self, name: str) -> str:
        """Return an id for a job: a scenario's second try finds nothing of the first."""
        return f"{name}-{uuid.uuid4().hex[:4]}"

    def refused(self, *arguments: str, **environment: str) -> str:
        """Submit what cannot run; return what is said, and print how long that took."""
        began = time.monotonic()
        done = self.graft("submit", str(self.spec), *arguments, **environment)
        print(f"{time.monotonic() - began:.1f} s, exit {done.returncode}: {done.stderr.strip()}")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    def job(self, job: str) -> dict[str, Any]:
        """Return how a job stands."""
        document: dict[str, Any] = json.loads(self.graft("jobs", "show", job, "--json").stdout)
        return document

    def running(self, job: str, epoch: int, attempt: int = 1) -> None:
        """Wait until a job has finished an epoch, in this attempt or a later one."""

        def reached() -> bool:
            found = self.job(job)
            assert found["state"] in ("starting", "running"), found
            done = re.match(r"epoch (\d+)/", found["progress"] or "")
            return bool(done) and int(done[1]) >= epoch and found["attempt"] >= attempt

        self.cluster.wait_for(f"epoch {epoch} of {job}", reached, 180)

    def pods(self, job: str, role: str = "") -> list[str]:
        """Return the names of a job's pods."""
        selector = f"graft.dev/job={job}" + (f",ray.io/node-type={role}" if role else "")
        found = self.cluster.find("pods", self.namespace, selector)
        return [pod["metadata"]["name"] for pod in found]

    def objects(self, job: str) -> list[str]:
        """Return what is left of a job in the cluster, as KIND/NAME."""
        kinds = "rayjobs,rayclusters,services,pods,secrets"
        names = self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()
        return [name for name in names if f"/{job}" in name]

    def tolerates(self, pod: str) -> dict[str, int | None]:
        """Return the taints that a pod bears, and for how many seconds."""
        spec = self.cluster.get("pod", pod, self.namespace)["spec"]
        return {one["key"]: one.get("tolerationSeconds") for one in spec["tolerations"]}

    def cut_off(self, pod: str) -> None:
        """Drop all packets to and from a pod, for good: this process is in the node's network."""
        address = self.cluster.get("pod", pod, self.namespace)["status"]["podIP"]
        (neighbour,) = json.loads(output("ip", "-json", "neigh", "show", address, "dev", "cni0"))
        known = json.loads(output("bridge", "-json", "fdb", "show", "br", "cni0"))
        (port,) = {one["ifname"] for one in known if one["mac"] == neighbour["lladdr"]}
        output("ip", "link", "set", port, "down")

    def evict(self, pod: str) -> None:
        """Tell a pod to end, as a drained node and a preemption do."""
        self.cluster.kubectl("delete", "pod", pod, "-n", self.namespace, "--wait=false")

    def kill(self, pod: str) -> None:
        """Delete a pod as if its node had gone."""
        self.cluster.kubectl(
            *("delete", "pod", pod, "-n", self.namespace, "--force", "--grace-period=0")
        )


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def everything(cluster: Cluster, namespace: str) -> set[str]:
    """All objects of a namespace, and the cluster's own roles, by kind and name; no events."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = cluster.kubectl("get", ",".join(kinds), "-n", namespace, "-o", "name").split()
    roles = cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").split()
    return {*found, *(role for role in roles if "graft" in role)}


def values(cluster: Cluster, **changes: Any) -> str:
    """The chart's values for a node of 2 cores."""
    repository, _, tag = cluster.image.rpartition(":")
    small = {"cpu": "100m", "memory": "4Gi", "sharedMemory": "256Mi"}
    disk = {"cache": "2Gi", "tmp": "1Gi"}
    small |= disk
    document: dict[str, Any] = {
        "image": {
            "repository": repository,
            "tag": tag,
            "pullPolicy": "IfNotPresent",
            "allowed": ["localhost/nowhere:*"],
        },
        "store": {
            "uri": cluster.store,
            "endpoint": cluster.environment["AWS_ENDPOINT_URL"],
            "secret": "graft-s3",
        },
        "classes": {"cpu": small, "gpu-a100": small | {"gpu": "nvidia.com/gpu"}},
        "head": {"cpu": "200m", "memory": "3Gi", "sharedMemory": "512Mi"} | disk,
        "jobs": {
            "sweepConcurrency": 2,
            "startDeadlineSeconds": START_DEADLINE_S,
            "retries": 1,
        },
    }
    for key, value in changes.items():
        node = document
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return json.dumps(document)


def secret(cluster: Cluster, namespace: str, **changes: str) -> None:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    data = {key: cluster.environment[key] for key in keys if key in cluster.environment} | changes
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "graft-s3", "namespace": namespace},
            "stringData": data,
        }
    )


def install(
    cluster: Cluster,
    namespace: str,
    folder: Path,
    *options: str,
    chart: Path = CHART,
    **changes: Any,
) -> str:
    """Install or upgrade the chart, with ada as its one submitter; return what helm says."""
    file = folder / f"values-{namespace}.json"
    ada = {"kind": "ServiceAccount", "name": "ada", "namespace": namespace}
    file.write_text(values(cluster, submitters=[ada], **changes))
    return cluster.helm(
        *("upgrade", "--install", "graft", str(chart), "-n", namespace, "-f", str(file), *options)
    )


def person(
    cluster: Cluster, namespace: str, name: str, folder: Path, server: str | None = None
) -> str:
    """Return a kubeconfig for somebody whom the cluster knows and gives no rights.

    `server`: another way to the API server.
    """
    if not cluster.get("serviceaccount", name, namespace):
        cluster.kubectl("create", "serviceaccount", name, "-n", namespace)
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    token = cluster.kubectl("create", "token", name, "-n", namespace, "--duration=4h")
    config["users"][0]["user"] = {"token": token}
    config["contexts"][0]["context"]["namespace"] = namespace
    if server:
        config["clusters"][0]["cluster"]["server"] = server
    path = folder / f"{uuid.uuid4().hex}.kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)
