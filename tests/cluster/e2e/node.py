"""The cluster's one node: scheduler, kubelet, kube-proxy and DNS; or a stand-in for it."""

import json
from pathlib import Path
from typing import Any

from cluster.e2e.certificates import FOLDER, NODE, kubeconfig
from cluster.e2e.cluster import Cluster
from cluster.e2e.containerd import SOCKET
from cluster.e2e.machine import CGROUP, GATEWAY, PODS, RUN
from cluster.e2e.processes import Processes
from programs import program

STAND_IN: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": NODE},
    "status": {
        key: {"cpu": "2", "memory": "24Gi", "ephemeral-storage": "200Gi", "pods": "110"}
        for key in ("capacity", "allocatable")
    },
}
"""A node without a kubelet: what `graft submit` measures jobs against."""
_DNS = "10.96.0.10"


def start_node(processes: Processes) -> None:
    """Start what runs on a node, and what gives pods to it."""
    processes.start(
        "kube-scheduler",
        program("kube-scheduler"),
        f"--kubeconfig={kubeconfig('scheduler')}",
        "--leader-elect=false",
    )
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


def start_dns(processes: Processes, cluster: Cluster) -> None:
    """Start coredns on the host, where the Service `kube-dns` finds it."""
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


def _configuration(name: str, content: dict[str, Any]) -> Path:
    path = RUN / f"{name}.yaml"
    path.write_text(json.dumps(content))  # which is YAML, too
    return path
