"""What the cluster takes of this machine, and gives back.

Everything runs in namespaces of its own (network, mounts, processes): when their first process
ends, however it ends, the kernel kills the rest, and mounts, interfaces and tables are gone.
Only cgroups and the run's folder outlive them; `give_back` removes these.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from programs import CACHE

ROOT = Path(__file__).parents[3]
STATE = CACHE / "e2e"
"""What later runs use again, of any clone: images, and containerd's own folder."""
_OWN = os.environ.get("GRAFT_E2E_RUN", "")
RUN = STATE / f"run{_OWN}"
"""What one run needs; emptied before the next."""
LOGS = STATE / f"logs{_OWN}"
"""What the last run's programs said."""

NAMESPACES = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "-n", "-m", "-p", "-f", "--kill-child", "--mount-proc"),
]
CGROUP = "graft-e2e"
GATEWAY = "10.244.0.1"
"""The node's address, and that of everything on it that pods reach."""
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"

TOOLS = {"ip": "iproute2", "openssl": "openssl"}
"""Of the control plane; command -> Debian's package."""
NODE_TOOLS = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "debootstrap": "debootstrap",
    "ethtool": "ethtool",
    "ipset": "ipset",
    "iptables": "iptables",
    "runc": "runc",
    "skopeo": "skopeo",
    "socat": "socat",
}
"""Likewise, of a node and its image."""
_HIDDEN = ("/run", "/var/log", "/var/lib/cni")
"""Where Kubernetes' programs write without being asked."""
_MOUNT_POINTS = ("/var/lib/cni", "/var/lib/kubelet")
"""Those that few machines have."""
_TUNED = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""Settings of the whole machine that the kubelet would change."""
_phases: list[tuple[str, float]] = []


class CannotRunError(Exception):
    """Why this machine cannot raise a cluster, on a line."""


class BusyError(Exception):
    """Another cluster is up."""


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Time a phase of the raising, for the table."""
    print(f"{name} ...", flush=True)
    began = time.monotonic()
    yield
    _phases.append((name, time.monotonic() - began))


def phases() -> list[tuple[str, float]]:
    """Return the phases that the raising had so far, in the processes above this one, too."""
    return [*json.loads(os.environ.get("GRAFT_E2E_PHASES", "[]")), *_phases]


def check() -> None:
    """Raise CannotRunError where no cluster can be raised, whatever is installed."""
    if os.geteuid():
        raise CannotRunError("it needs root")
    try:
        made = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CannotRunError(f"no {error.filename}, of util-linux, here") from error
    if made.returncode:
        raise CannotRunError(f"no namespaces of one's own here: {made.stderr.strip()}")


def install_tools(tools: Mapping[str, str]) -> None:
    """Install those of some Debian tools that are missing."""
    missing = [package for command, package in tools.items() if not shutil.which(command)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise CannotRunError(f"no {', '.join(missing)}, and no apt-get to install them with")
    install = ["apt-get", "install", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CannotRunError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")


def check_space(gigabytes: int) -> None:
    """Raise CannotRunError where the disk is too small for what is not built yet.

    `gigabytes`: what there is in CACHE while the last of it is made.
    """
    free = shutil.disk_usage(CACHE).free / 1e9
    if free > gigabytes:
        return
    sizes = subprocess.run(["du", "-sk", CACHE], capture_output=True, text=True, check=True)
    taken = int(sizes.stdout.split()[0]) * 1024 / 1e9
    if free + taken < gigabytes:
        raise CannotRunError(
            f"it takes {gigabytes} GB of disk, and {CACHE} has {taken:.0f} with {free:.0f} free"
        )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the machine's only cluster: two at once would share cgroups and mount points."""
    with Path("/run/graft-e2e.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError("another one is up on this machine") from error
        yield


@contextlib.contextmanager
def turn(what: str) -> Iterator[None]:
    """Wait until no other process, of any clone, is busy with something, and keep it from them."""
    with (STATE / f"{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process to be done with the {what} ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def begin() -> None:
    """Remove what a killed run left, and make room for this one."""
    give_back()
    shutil.rmtree(LOGS, ignore_errors=True)
    for folder in (RUN, LOGS, *map(Path, _MOUNT_POINTS)):
        folder.mkdir(parents=True, exist_ok=True)


def give_back() -> None:
    """Remove what outlives the namespaces."""
    for hierarchy in _hierarchies():
        _remove_cgroup(hierarchy / CGROUP)
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in _MOUNT_POINTS:
        with contextlib.suppress(OSError):  # what others use is not empty
            Path(folder).rmdir()


def enclose(node: bool) -> None:
    """Furnish the namespaces, from inside: mounts and a bridge; for a node's pods a cgroup, too."""
    _run("mount", "--make-rshared", "/")
    resolv = Path("/etc/resolv.conf").resolve()  # before /run, where it may lie, is hidden
    hide(*_HIDDEN)
    names = RUN / "resolv.conf"
    names.write_text(f"nameserver {GATEWAY}\n")
    resolv.parent.mkdir(parents=True, exist_ok=True)
    resolv.touch()
    _run("mount", "--bind", names, resolv)

    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "cni0", "type", "bridge")
    _run("ip", "address", "add", f"{GATEWAY}/24", "dev", "cni0")
    _run("ip", "link", "set", "cni0", "up")
    if node:
        _furnish_node()


def hide(*folders: str) -> None:
    """Have empty folders in the place of these, as far as this process's mounts go."""
    for folder in folders:
        _run("mount", "-t", "tmpfs", "tmpfs", folder)


def _furnish_node() -> None:
    kubelet = RUN / "kubelet"  # on disk: the pods' volumes lie in it
    kubelet.mkdir()
    _run("mount", "--bind", kubelet, "/var/lib/kubelet")
    for setting in _TUNED:
        real, stand_in = Path("/proc/sys", setting), RUN / "tuned" / setting
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(real.read_text())
        _run("mount", "--bind", stand_in, real)
    _run("ip", "route", "add", SERVICES, "dev", "cni0")  # kube-proxy turns it to the pods
    for setting in ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables"):
        Path("/proc/sys/net", setting).write_text("1")
    for hierarchy in _hierarchies():
        _make_cgroup(hierarchy)


def _hierarchies() -> list[Path]:
    """Return where cgroups are made: one folder in version 2, one a controller in version 1."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroup(hierarchy: Path) -> None:
    group = hierarchy / CGROUP
    group.mkdir(exist_ok=True)
    if (group / "cpuset.mems").exists() and not (hierarchy / "cgroup.controllers").exists():
        for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, and useless so
            (group / name).write_text((hierarchy / name).read_text())
    if hierarchy == Path("/sys/fs/cgroup"):
        controllers = " ".join(
            f"+{c}" for c in (hierarchy / "cgroup.controllers").read_text().split()
        )
        for level in (hierarchy, group):
            (level / "cgroup.subtree_control").write_text(controllers)


def _remove_cgroup(group: Path) -> None:
    deadline = time.monotonic() + 20
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(folder)
                break
            except OSError:  # its processes are being killed
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
