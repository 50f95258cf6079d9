"""The cluster's certificates, made anew for each run."""

import json
import subprocess
from pathlib import Path

from cluster.e2e.machine import GATEWAY, RUN

FOLDER = RUN / "certificates"
API = f"https://{GATEWAY}:6443"
NODE = "graft-e2e"

_CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}
_SERVERS = {
    "apiserver": ["DNS:kubernetes.default.svc", "IP:10.96.0.1", f"IP:{GATEWAY}", "IP:127.0.0.1"],
    "kubelet-server": [f"DNS:{NODE}", f"IP:{GATEWAY}"],
}


def make_certificates() -> None:
    """Make a CA, what it signs, the key of service accounts, and a kubeconfig for each client."""
    FOLDER.mkdir()
    # Without Debian's configuration, whose extensions are those of a CA.
    (FOLDER / "openssl.cnf").write_text("[req]\ndistinguished_name = dn\n[dn]\n")
    _certificate("ca", "/CN=graft-e2e", "basicConstraints=critical,CA:TRUE")
    signed = ["-CA", FOLDER / "ca.crt", "-CAkey", FOLDER / "ca.key"]
    for name, subject in _CLIENTS.items():
        _certificate(name, subject, "extendedKeyUsage=clientAuth", *signed)
        _kubeconfig(name)
    for name, names in _SERVERS.items():
        usage = ("extendedKeyUsage=serverAuth", "-addext", f"subjectAltName={','.join(names)}")
        _certificate(name, f"/CN={name}", *usage, *signed)
    _openssl("genrsa", "-out", FOLDER / "accounts.key", "2048")


def kubeconfig(name: str) -> Path:
    """Return the kubeconfig of a client: admin, kubelet, controller-manager, scheduler, proxy."""
    return FOLDER / f"{name}.kubeconfig"


def _certificate(name: str, subject: str, extension: str, *more: str | Path) -> None:
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-config", FOLDER / "openssl.cnf", "-days", "2", "-subj", subject),
        *("-keyout", FOLDER / f"{name}.key", "-out", FOLDER / f"{name}.crt"),
        *("-addext", extension, *more),
    )


def _kubeconfig(name: str) -> None:
    files = {"client-certificate": f"{name}.crt", "client-key": f"{name}.key"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "graft-e2e",
        "clusters": [
            {
                "name": "graft-e2e",
                "cluster": {"server": API, "certificate-authority": str(FOLDER / "ca.crt")},
            }
        ],
        "users": [{"name": name, "user": {k: str(FOLDER / file) for k, file in files.items()}}],
        "contexts": [{"name": "graft-e2e", "context": {"cluster": "graft-e2e", "user": name}}],
    }
    kubeconfig(name).write_text(json.dumps(config))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
