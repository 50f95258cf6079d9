"""The programs of the tests, built once from their Go modules at the versions of versions.env.

    python tests/programs.py minio kubernetes ...

builds what is missing of those named, and says in a line what cannot be built here. They lie
in the user's cache, one folder a version, so that all clones on a machine share them:
$XDG_CACHE_HOME/graft-tests (~/.cache/graft-tests), or where GRAFT_TEST_PROGRAMS says. Any Python
runs this: only the standard library, no .venv.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

_TESTS = Path(__file__).parent
_USERS_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("GRAFT_TEST_PROGRAMS") or _USERS_CACHE / "graft-tests").absolute()

VERSIONS = dict(
    line.strip().split("=", 1)
    for line in (_TESTS / "versions.env").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)


class CannotBuildError(Exception):
    """No Go here, or its module cannot be had or built."""


@dataclass(frozen=True)
class _Build:
    """What is built together, and lies together in one folder."""

    version: str
    module: str
    programs: dict[str, str] = field(default_factory=dict)
    """Name -> package, below the module."""
    files: tuple[str, ...] = ()
    """Files and folders of the module that are kept as they are."""
    mains: dict[str, str] = field(default_factory=dict)
    """Name -> source of a main package in place of one of the module's."""


def _kubernetes_programs() -> dict[str, str]:
    servers = ["apiserver", "controller-manager", "scheduler", "proxy"]
    return {name: f"cmd/{name}" for name in ["kubectl", "kubelet", *(f"kube-{s}" for s in servers)]}


# Its own main takes in every plugin, and with them the SDKs of three clouds.
_COREDNS = """package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() { coremain.Run() }
"""

_BUILDS = {
    "minio": _Build(VERSIONS["MINIO"], "github.com/minio/minio", {"minio": ""}),
    "helm": _Build(VERSIONS["HELM"], "helm.sh/helm/v4", {"helm": "cmd/helm"}),
    "kubernetes": _Build(VERSIONS["KUBERNETES"], "k8s.io/kubernetes", _kubernetes_programs()),
    "kubernetes-files": _Build(
        VERSIONS["KUBERNETES"], "k8s.io/kubernetes", files=("api/openapi-spec/swagger.json",)
    ),
    "containerd": _Build(
        VERSIONS["CONTAINERD"],
        "github.com/containerd/containerd/v2",
        {name: f"cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    ),
    "cni": _Build(
        VERSIONS["CNI"],
        "github.com/containernetworking/plugins",
        {
            "bridge": "plugins/main/bridge",
            "loopback": "plugins/main/loopback",
            "host-local": "plugins/ipam/host-local",
            "portmap": "plugins/meta/portmap",
        },
    ),
    "etcd": _Build(VERSIONS["ETCD"], "go.etcd.io/etcd/server/v3", {"etcd": ""}),
    "kuberay": _Build(
        VERSIONS["KUBERAY"], "github.com/ray-project/kuberay/ray-operator", {"ray-operator": ""}
    ),
    "kuberay-files": _Build(
        VERSIONS["KUBERAY"],
        "github.com/ray-project/kuberay/ray-operator",
        files=("config/crd/bases", "config/rbac"),
    ),
    "gateway-api-files": _Build(
        VERSIONS["GATEWAY_API"], "sigs.k8s.io/gateway-api", files=("config/crd/standard",)
    ),
    "coredns": _Build(
        VERSIONS["COREDNS"], "github.com/coredns/coredns", mains={"coredns": _COREDNS}
    ),
}


def folder(name: str) -> Path:
    """Return where what is built under this name lies: `folder("cni")`.

    `folder("kuberay-files") / "config/crd/bases"` holds KubeRay's CRDs, and
    `folder("kubernetes-files") / "api/openapi-spec/swagger.json"` is Kubernetes' OpenAPI document.
    """
    build = _BUILDS[name]
    own = hashlib.sha256(repr(build.mains).encode()).hexdigest()[:8] if build.mains else ""
    return CACHE / "-".join(filter(None, (name, build.version, own)))


def program(name: str) -> Path:
    """Return the path of an executable: `program("kubectl")`. It is there once it was built."""
    for built, build in _BUILDS.items():
        if name in {**build.programs, **build.mains}:
            return folder(built) / name
    raise KeyError(name)


def missing(names: list[str]) -> list[str]:
    """Return those of the names that are not built yet."""
    return [name for name in names if not folder(name).is_dir()]


def build(name: str) -> None:
    """Build what has this name, unless it is there.

    Raises:
        CannotBuildError: why not, on a line.
    """
    if folder(name).is_dir():
        return
    go, wanted = _go(), _BUILDS[name]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second finds it built
        if not folder(name).is_dir():
            _build(go, name, wanted)


def _build(go: str, name: str, wanted: _Build) -> None:
    print(f"building {name} {wanted.version}, once", flush=True)
    began = time.monotonic()
    for left in CACHE.glob(f"building-{name}-*"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"building-{name}-") as temporary:
        module, made = Path(temporary, "module"), Path(temporary, "made")
        module.mkdir()
        made.mkdir()
        downloaded = _download(go, wanted)
        for kept in wanted.files:
            _copy(Path(downloaded["Dir"], kept), made / kept)
        if wanted.programs or wanted.mains:
            (module / "go.mod").write_text(_wrapper(wanted, Path(downloaded["GoMod"]).read_text()))
            _compile(go, wanted, module, made)
        made.rename(folder(name))
    print(f"  built {name} in {time.monotonic() - began:.0f} s", flush=True)


def _go() -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise CannotBuildError("no Go to build it with")
    return go


def _download(go: str, wanted: _Build) -> dict[str, str]:
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{wanted.module}@{wanted.version}"],
        cwd=CACHE,
        capture_output=True,
        text=True,
    )
    answer: dict[str, str] = json.loads(done.stdout or "{}")
    if done.returncode:
        why = answer.get("Error") or done.stderr.strip() or "no answer"
        raise CannotBuildError(f"its module cannot be had: {why.splitlines()[-1]}")
    return answer


def _wrapper(wanted: _Build, its_own: str) -> str:
    """Return the go.mod of a module that requires just the one wanted.

    `go install module@version` refuses those that replace others, as Kubernetes does with its
    staging folders; these are published as modules of their own, numbered v0.* for v1.*.
    """
    language = re.search(r"^go \S+$", its_own, re.MULTILINE)
    staged = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", its_own, re.MULTILINE)
    version = re.sub(r"^v1\.", "v0.", wanted.version)
    return "\n".join(
        [
            "module graft.test/programs",
            language[0] if language else "",
            f"require {wanted.module} {wanted.version}",
            *(f"replace {name} => {name} {version}" for name in staged),
            "",
        ]
    )


def _compile(go: str, wanted: _Build, module: Path, made: Path) -> None:
    packages = {name: f"{wanted.module}/{p}".rstrip("/") for name, p in wanted.programs.items()}
    for name, source in wanted.mains.items():
        (module / name).mkdir()
        (module / name / "main.go").write_text(source)
        packages[name] = f"./{name}"
    flags = "-s -w"
    if wanted.module == "k8s.io/kubernetes":  # clients refuse a server that calls itself v0.0.0
        major, minor, _ = wanted.version.removeprefix("v").split(".")
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += f" -X {package}.gitVersion={wanted.version}"
            flags += f" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    command = [go, "build", "-mod=mod", "-ldflags", flags, "-o", f"{made}/", *packages.values()]
    # A compiler that collects garbage less often takes a sixth less time.
    environment = {"GOGC": "400"} | os.environ
    done = subprocess.run(command, cwd=module, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stderr)
        raise CannotBuildError("go build failed: see above")
    for name, package in packages.items():
        (made / re.sub(r"/v\d+$", "", package).rsplit("/", 1)[-1]).rename(made / name)


def _copy(source: Path, target: Path) -> None:
    """Copy what lies in Go's cache, which is without write bits."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        for child in source.iterdir():
            _copy(child, target / child.name)
    else:
        shutil.copyfile(source, target)


def main(names: list[str]) -> None:
    """Build those named; what cannot be built is said, and is no failure: its tests skip."""
    for name in names:
        try:
            build(name)
        except CannotBuildError as error:
            print(f"{name} {_BUILDS[name].version} cannot be built: {error}")


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(f"usage: {sys.argv[0]} {{{','.join(_BUILDS)}}} ..."))
