"""A Kubernetes of one node with KubeRay and an S3 server, from programs alone.

To be called inside the namespaces that machine.py furnished: `python -m cluster.e2e` does both.
"""

import contextlib
import dataclasses
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config

from cluster.e2e.certificates import API, FOLDER, NODE, kubeconfig, make_certificates
from cluster.e2e.cluster import Cluster
from cluster.e2e.containerd import SOCKET, start_containerd
from cluster.e2e.machine import CGROUP, GATEWAY, PODS, RUN, SERVICES, phase
from cluster.e2e.processes import Processes
from programs import folder, program

_DNS = "10.96.0.10"
_OPERATOR_HEALTH = "127.0.0.1:8082"
_BUCKET = "graft"


@contextlib.contextmanager
def raise_cluster(image: str) -> Iterator[Cluster]:
    """Raise it, with `image` in its containerd; everything ends with the context."""
    processes = Processes()
    try:
        with phase("API server"):
            make_certificates()
            _start_control_plane(processes)
        start_containerd(processes)
        cluster = _describe(image)
        with phase("store"):
            _start_store(processes, cluster)
        with phase("node"):
            _start_node(processes)
            _start_dns(processes, cluster)
            processes.wait_for("the node", lambda: _is_ready(cluster), 120)
        with phase("KubeRay"):
            _start_operator(processes, cluster)
        processes.check()
        yield cluster
    finally:
        processes.close()


def _start_control_plane(processes: Processes) -> None:
    etcd = ["--data-dir", "/run/etcd", "--unsafe-no-fsync"]  # on a tmpfs; nothing outlives the run
    processes.start("etcd", program("etcd"), *etcd)
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
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={accounts}",
        f"--root-ca-file={FOLDER}/ca.crt",
    )
    processes.start(
        "kube-scheduler",
        program("kube-scheduler"),
        f"--kubeconfig={kubeconfig('scheduler')}",
        "--leader-elect=false",
    )


def _start_node(processes: Processes) -> None:
    kubelet = _configuration(
        "kubelet",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": GATEWAY,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{FOLDER}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{FOLDER}/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{FOLDER}/kubelet-server.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [_DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(RUN / "resolv.conf"),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "volumePluginDir": str(RUN / "volume-plugins"),
            # The machine's disk is not the cluster's own: how full it is must not evict its pods.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "512Mi",
                "imagefs.available": "512Mi",
            },
            "imageGCHighThresholdPercent": 100,
        },
    )
    processes.start(
        "kubelet",
        program("kubelet"),
        f"--config={kubelet}",
        f"--kubeconfig={kubeconfig('kubelet')}",
        f"--hostname-override={NODE}",
        f"--node-ip={GATEWAY}",
    )
    # conntrack's size is the whole machine's: 0 leaves it.
    conntrack = {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
    }
    proxy = _configuration(
        "kube-proxy",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": PODS,
            "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": str(kubeconfig("proxy"))},
            "conntrack": conntrack,
        },
    )
    processes.start("kube-proxy", program("kube-proxy"), f"--config={proxy}")


def _start_dns(processes: Processes, cluster: Cluster) -> None:
    corefile = RUN / "Corefile"
    # Two servers: in one, `template` would come first, and answer for the cluster's names, too.
    corefile.write_text(f"""cluster.local:53 in-addr.arpa:53 {{
  bind {GATEWAY}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig("admin")}
  }}
}}
.:53 {{
  bind {GATEWAY}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
""")
    processes.start("coredns", program("coredns"), "-conf", corefile)
    meta = {"name": "kube-dns", "namespace": "kube-system"}
    ports: list[dict[str, Any]] = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"clusterIP": _DNS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [GATEWAY]}],
            "ports": ports,
        },
    )


def _start_store(processes: Processes, cluster: Cluster) -> None:
    key = cluster.environment["AWS_ACCESS_KEY_ID"]
    processes.start(
        "minio",
        *(program("minio"), "server", RUN / "minio", "--address", f"{GATEWAY}:9000"),
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


def _start_operator(processes: Processes, cluster: Cluster) -> None:
    """Run KubeRay's operator on the host: it reaches Services, and resolves them by coredns."""
    crds = folder("kuberay-files") / "config/crd/bases"
    cluster.kubectl("apply", "--server-side", "-f", str(crds))
    cluster.kubectl("wait", "--for=condition=Established", "-f", str(crds), "--timeout=60s")
    processes.start(
        "kuberay",
        program("ray-operator"),
        "--enable-leader-election=false",
        "--metrics-addr=127.0.0.1:8083",
        f"--health-probe-bind-address={_OPERATOR_HEALTH}",
        environment={"KUBECONFIG": str(kubeconfig("admin"))},
    )
    processes.wait_for("KubeRay", lambda: _answers(f"http://{_OPERATOR_HEALTH}/readyz"))


def _describe(image: str) -> Cluster:
    cluster = Cluster(
        kubeconfig=str(kubeconfig("admin")),
        api=API,
        node=NODE,
        image=image,
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
    conditions = cluster.get("node", NODE)["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _configuration(name: str, content: dict[str, Any]) -> Path:
    path = RUN / f"{name}.yaml"
    path.write_text(json.dumps(content))  # which is YAML, too
    return path


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError as error:
        raise OSError(f"{url}: {error}") from error


def _kubectl(*arguments: str) -> str:
    command = [program("kubectl"), "--kubeconfig", kubeconfig("admin"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
