"""containerd, which starts every time with the same images and nothing else.

Its folder outlives a run, so that an image is unpacked once. What it knew when the images had
just been imported is remembered, and brought back before each run: containers and whatever else a
run left, also one that was killed, are gone.
"""

import json
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from cluster.e2e.images import (
    LAYOUT,
    PAUSE,
    blob,
    forget_layout,
    laid_out,
    laid_out_blobs,
    laid_out_index,
    remember_layout,
)
from cluster.e2e.machine import LOGS, RUN, STATE, hide, phase
from cluster.e2e.processes import Processes
from programs import folder, program

SOCKET = "/run/containerd/containerd.sock"
_FOLDER = STATE / "containerd"
_KEPT = ("io.containerd.content", "io.containerd.metadata", "io.containerd.snapshotter")
_CONTENT = _FOLDER / "io.containerd.content.v1.content"
_SNAPSHOTS = _FOLDER / "io.containerd.snapshotter.v1.overlayfs/snapshots"
_DATABASES = (
    _FOLDER / "io.containerd.metadata.v1.bolt/meta.db",
    _FOLDER / "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)
_PRISTINE = STATE / "pristine"


def has_images() -> bool:
    """Return whether it has the images that are laid out, so that it starts at once."""
    return _remembered("names") == laid_out()


def take_images() -> None:
    """Import the images that are laid out, before a cluster needs them."""
    hide("/run")
    RUN.mkdir(exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    processes = Processes()
    try:
        start_containerd(processes)
    finally:
        processes.close()


def start_containerd(processes: Processes) -> None:
    """Start it, with just the images that are laid out."""
    _configure()
    _bring_back()
    if not has_images():
        with phase("image into containerd"):
            _start(processes)
            _import()
            processes.stop("containerd")
            _remember()
    _start(processes)


def _start(processes: Processes) -> None:
    programs = {"PATH": f"{folder('containerd')}:/usr/sbin:/usr/bin:/sbin:/bin"}
    command = (program("containerd"), "--config", RUN / "containerd.toml")
    processes.start("containerd", *command, environment=programs)
    processes.wait_for("containerd", lambda: _ctr("version"))


def _configure() -> None:
    cni = RUN / "cni"
    cni.mkdir(exist_ok=True)
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (cni / "pods.conflist").write_text(json.dumps(network))
    # restrict_oom_score_adj: no pod starts where this process may not lower its own score.
    (RUN / "containerd.toml").write_text(f"""
version = 3
root = "{_FOLDER}"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{folder("cni")}"]
conf_dir = "{cni}"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{shutil.which("runc")}"
SystemdCgroup = false
""")


def _import() -> None:
    """Move the blobs that it has not yet to containerd, and link all of them from there."""
    names, index, wanted = laid_out(), laid_out_index(), laid_out_blobs()
    have = set(_ctr("content", "ls", "-q").split())
    forget_layout()
    importing = subprocess.Popen(_command("images", "import", "-"), stdin=subprocess.PIPE)
    assert importing.stdin
    with importing.stdin, tarfile.open(fileobj=importing.stdin, mode="w|") as archive:
        for name, content in {
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
            "index.json": index,
        }.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))
        for digest in wanted:
            if digest not in have:
                archive.add(blob(digest), blob(digest).relative_to(LAYOUT))
                blob(digest).unlink()  # not once more: it unpacks them, too
    assert importing.wait() == 0, "ctr images import failed"
    for name in _ctr("images", "ls", "-q").split():
        if name not in names.values():
            _ctr("images", "rm", "--sync", name)
    for digest in wanted:
        blob(digest).unlink(missing_ok=True)
        blob(digest).hardlink_to(_CONTENT / "blobs" / digest.replace(":", "/"))
    remember_layout(names)


def _remember() -> None:
    """Keep what it knows now, stopped, and which snapshots there are."""
    shutil.rmtree(_PRISTINE, ignore_errors=True)
    _PRISTINE.mkdir()
    for path in _DATABASES:
        shutil.copyfile(path, _PRISTINE / path.name)
    snapshots = [path.name for path in _SNAPSHOTS.iterdir()]
    for name, value in {"snapshots": snapshots, "names": laid_out()}.items():  # names: last
        (_PRISTINE / f"{name}.json").write_text(json.dumps(value))


def _bring_back() -> None:
    if _remembered("names") is None:
        shutil.rmtree(_FOLDER, ignore_errors=True)
        return
    for path in _FOLDER.iterdir():
        if not path.name.startswith(_KEPT):
            shutil.rmtree(path)
    shutil.rmtree(_CONTENT / "ingest", ignore_errors=True)
    for path in _SNAPSHOTS.iterdir():
        if path.name not in _remembered("snapshots"):
            shutil.rmtree(path)
    for path in _DATABASES:
        shutil.copyfile(_PRISTINE / path.name, path)


def _remembered(name: str) -> object:
    path = _PRISTINE / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _command(*arguments: str) -> list[str | Path]:
    return [program("ctr"), "--address", SOCKET, "--namespace", "k8s.io", *arguments]


def _ctr(*arguments: str) -> str:
    done = subprocess.run(_command(*arguments), check=True, capture_output=True, text=True)
    return done.stdout
