"""A Kubernetes with KubeRay and an S3 server, from programs alone: of one node, or of none.

To be called inside the namespaces that machine.py furnished: `python -m cluster.e2e` does both.
"""

import contextlib
import dataclasses
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import boto3
import httpx
from botocore.config import Config

from cluster.e2e.certificates import API, FOLDER, NODE, kubeconfig, make_certificates
from cluster.e2e.cluster import Cluster
from cluster.e2e.containerd import start_containerd
from cluster.e2e.machine import GATEWAY, RUN, SERVICES, phase
from cluster.e2e.node import STAND_IN, start_dns, start_node
from cluster.e2e.processes import Processes
from programs import folder, program

_NO_IMAGE = "localhost/graft:none"
_OPERATOR_HEALTH = "127.0.0.1:8082"
_BUCKET = "graft"
_STORED = RUN / "minio"
_ETCD = "/run/etcd"
"""On a tmpfs: nothing outlives the run."""
_ROUTES = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"


@contextlib.contextmanager
def raise_cluster(image: str | None) -> Iterator[Cluster]:
    """Raise it, with `image` in its containerd; everything ends with the context.

    None: the control plane alone. Its node is a name without a kubelet, and pods stay pending.
    """
    processes = Processes()
    for left in (FOLDER, _STORED, _ETCD):  # by a try of this run that has failed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with phase("API server"):
            make_certificates()
            _start_control_plane(processes)
        if image:
            start_containerd(processes)
        cluster = _describe(image)
        with phase("store"):
            _start_store(processes, cluster)
        if image:
            with phase("node"):
                start_node(processes)
                start_dns(processes, cluster)
                processes.wait_for("the node", lambda: _is_ready(cluster), 120)
        else:
            cluster.apply(STAND_IN)
        with phase("KubeRay"):
            _start_operator(processes, cluster)
        processes.check()
        yield cluster
    finally:
        processes.close()


def _start_control_plane(processes: Processes) -> None:
    processes.start("etcd", program("etcd"), "--data-dir", _ETCD, "--unsafe-no-fsync")
    processes.wait_for("etcd", lambda: _answers("http://127.0.0.1:2379/health"))
    accounts = FOLDER / "accounts.key"
    processes.start(
        "kube-apiserver",
        program("kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={GATEWAY}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        f"--client-ca-file={FOLDER}/ca.crt",
        f"--tls-cert-file={FOLDER}/apiserver.crt",
        f"--tls-private-key-file={FOLDER}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={accounts}",
        f"--service-account-signing-key-file={accounts}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={FOLDER}/ca.crt",
        f"--kubelet-client-certificate={FOLDER}/admin.crt",
        f"--kubelet-client-key={FOLDER}/admin.key",
    )
    processes.wait_for("the API server", lambda: _kubectl("get", "--raw", "/readyz"), 120)
    processes.start(
        "kube-controller-manager",
        program("kube-controller-manager"),
        f"--kubeconfig={kubeconfig('controller-manager')}",
        "--leader-elect=false",
        # A quota that names a kind before it is discovered is counted again only then: else 5 min.
        "--resource-quota-sync-period=10s",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={accounts}",
        f"--root-ca-file={FOLDER}/ca.crt",
    )


def _start_store(processes: Processes, cluster: Cluster) -> None:
    key = cluster.environment["AWS_ACCESS_KEY_ID"]
    processes.start(
        "minio",
        *(program("minio"), "server", _STORED, "--address", f"{GATEWAY}:9000"),
        environment={
            "MINIO_ROOT_USER": key,
            "MINIO_ROOT_PASSWORD": cluster.environment["AWS_SECRET_ACCESS_KEY"],
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
    )
    url = cluster.environment["AWS_ENDPOINT_URL"]
    processes.wait_for("MinIO", lambda: _answers(f"{url}/minio/health/live"))
    boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=cluster.environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    ).create_bucket(Bucket=_BUCKET)


def _established(cluster: Cluster) -> bool:
    """Whether all kinds are served. (`kubectl wait` fails where one has no conditions yet.)"""
    definitions = json.loads(cluster.kubectl("get", "crd", "-o", "json"))["items"]
    conditions = [one.get("status", {}).get("conditions") or [] for one in definitions]
    return all(
        any((c["type"], c["status"]) == ("Established", "True") for c in some)
        for some in conditions
    )


def _start_operator(processes: Processes, cluster: Cluster) -> None:
    """Run KubeRay's operator on the host: it reaches Services, and resolves them by coredns."""
    kuberays = folder("kuberay-files") / "config/crd/bases"
    routes = folder("gateway-api-files") / _ROUTES  # which the chart makes, too
    # Created: to be applied on the server, they would take three times as long.
    cluster.kubectl("create", "-f", str(kuberays), "-f", str(routes))
    cluster.wait_for("the definitions of their kinds", lambda: _established(cluster))
    processes.start(
        "kuberay",
        program("ray-operator"),
        "--enable-leader-election=false",
        "--metrics-addr=127.0.0.1:8083",
        f"--health-probe-bind-address={_OPERATOR_HEALTH}",
        environment={"KUBECONFIG": str(kubeconfig("admin"))},
    )
    processes.wait_for("KubeRay", lambda: _answers(f"http://{_OPERATOR_HEALTH}/readyz"))


def _describe(image: str | None) -> Cluster:
    cluster = Cluster(
        kubeconfig=str(kubeconfig("admin")),
        api=API,
        node=NODE,
        has_node=image is not None,
        image=image or _NO_IMAGE,
        store=f"s3://{_BUCKET}/e2e",
        environment={
            "AWS_ENDPOINT_URL": f"http://{GATEWAY}:9000",
            "AWS_ACCESS_KEY_ID": "graft-e2e",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_REGION": "us-east-1",
        },
    )
    (RUN / "cluster.json").write_text(json.dumps(dataclasses.asdict(cluster)))
    return cluster


def _is_ready(cluster: Cluster) -> bool:
    node = cluster.get("node", NODE)  # empty until the kubelet has registered it
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError as error:
        raise OSError(f"{url}: {error}") from error


def _kubectl(*arguments: str) -> str:
    command = [program("kubectl"), "--kubeconfig", kubeconfig("admin"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
