"""The real image, without a registry: from Debian's packages into containerd.

`make_images` runs before the namespaces, since it needs the network: debootstrap stands in for the
Dockerfile's base image, `make image` builds deploy/Dockerfile with buildah, and what comes out is
laid out as OCI blobs, which containerd.py takes in. What is there already is kept, and shared by
clones: when Graft's source changes, one thin layer is made, laid out and imported.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cluster.e2e.machine import ROOT, STATE, phase
from programs import VERSIONS, CannotBuildError

PAUSE = f"localhost/pause:{VERSIONS['DEBIAN']}"
"""Holds a pod's namespaces: the base image, asleep."""
_BASE = f"localhost/base:{VERSIONS['DEBIAN']}"
_SOURCES = ("deploy/Dockerfile", "constraints.txt", "pyproject.toml", "README.md", "LICENSE")
"""What the image is made of, beside `platform`."""
_MADE_ON = 1577836800
"""The first of 2020: when each of them was changed, as the image has it."""
LAYOUT = STATE / "layout"
_NAMES = LAYOUT / "names.json"
_STORAGE = STATE / "storage.conf"
_TEMPORARY = STATE / "tmp"


class BrokenImageError(Exception):
    """deploy/Dockerfile does not build."""


def make_images() -> str:
    """Make what is missing; return the name of Graft's image, which follows from its sources.

    Raises:
        CannotBuildError: what was run, and what it said.
        BrokenImageError: the same, of the Dockerfile, which is what is tested.
    """
    image = f"localhost/graft:{_sources()}"
    shutil.rmtree(_TEMPORARY, ignore_errors=True)  # what a killed one left; the next line, too
    _TEMPORARY.mkdir()
    _run("buildah", "rm", "--all")
    if not _exists(PAUSE):
        with phase("base image"):
            _make_base()
    if not _exists(image):
        with phase("Graft's image"):
            _make_graft(image)
    wanted = {"pause": PAUSE, "graft": image}
    if laid_out() != wanted:
        with phase("image's layers laid out"):
            _lay_out(wanted)
    return image


def _sources() -> str:
    digest = hashlib.sha256()
    sources = (ROOT / "platform").rglob("*")
    for path in [ROOT / n for n in _SOURCES] + sorted(p for p in sources if p.suffix != ".pyc"):
        if path.is_file():
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _lay_sources(folder: Path) -> None:
    """Copy the sources, and what makes the image of them, as if they were the same in all clones.

    buildah takes a layer again where what is copied into it has the same content, mode and time.
    """
    for name in (*_SOURCES, ".dockerignore", "Makefile"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "platform", folder / "platform", ignore=without)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (_MADE_ON, _MADE_ON))


def _make_base() -> None:
    with tempfile.TemporaryDirectory(dir=_TEMPORARY) as folder:
        include = "--include=ca-certificates,python3,python3-venv"
        _run("debootstrap", "--variant=minbase", include, VERSIONS["DEBIAN"], folder)
        for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, name))
            Path(folder, name, "partial").mkdir(parents=True)
        Path(folder).chmod(0o755)
        container = _run("buildah", "from", "scratch")
        _run("buildah", "add", container, folder, "/")
    _run("buildah", "commit", container, _BASE)
    _run("buildah", "config", "--entrypoint", '["/bin/sleep", "infinity"]', container)
    _run("buildah", "commit", container, PAUSE)
    _run("buildah", "rm", container)


def _make_graft(image: str) -> None:
    bundle, index = os.environ.get("PIP_CERT"), os.environ.get("PIP_INDEX_URL")
    with (
        tempfile.TemporaryDirectory(dir=_TEMPORARY) as sources,
        tempfile.NamedTemporaryFile("w", suffix=".conf") as conf,
    ):
        _lay_sources(Path(sources))
        conf.write("[global]\n")
        conf.write("cert = /run/secrets/ca.crt\n" if bundle else "")
        conf.write(f"index-url = {index}\n" if index else "")
        conf.flush()
        secrets = [f"PIP_CONF={conf.name}", *([f"CA_BUNDLE={bundle}"] if bundle else [])]
        names = f"BASE_IMAGE={_BASE}", f"IMAGE={image}"
        done = _in_store("make", "-C", sources, "image", "ENGINE=buildah", *names, *secrets)
    if done.returncode:
        raise BrokenImageError(_failure(done))
    for older in _run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        if older.startswith("localhost/graft:") and older != image:
            _run("buildah", "rmi", older)  # what it shares with the new one stays
    nameless = _run("buildah", "images", "--filter", "dangling=true", "--format", "{{.ID}}").split()
    # The newest one's layers that do not hold Graft's source are used again.
    wheels = [one for one in nameless if " in platform" in _inspected(one)]
    for older in wheels[1:]:
        _run("buildah", "rmi", older)


def _lay_out(wanted: dict[str, str]) -> None:
    forget_layout()
    (LAYOUT / "index.json").unlink(missing_ok=True)  # the blobs stay: missing ones are written
    for tag, image in wanted.items():
        plain = "--dest-oci-accept-uncompressed-layers"  # gzip would cost minutes
        source, target = f"containers-storage:{image}", f"oci:{LAYOUT}:{tag}"
        _run("skopeo", "--insecure-policy", "copy", plain, source, target)
    remember_layout(wanted)
    used = set(laid_out_blobs())
    for path in (LAYOUT / "blobs/sha256").iterdir():
        if f"sha256:{path.name}" not in used:
            path.unlink()


def laid_out() -> dict[str, str]:
    """Return the images that are laid out: tag -> name."""
    return json.loads(_NAMES.read_text()) if _NAMES.exists() else {}


def remember_layout(images: dict[str, str]) -> None:
    """Note that these images are laid out, with all their blobs: tag -> name."""
    _NAMES.write_text(json.dumps(images))


def forget_layout() -> None:
    """Note that blobs may be missing."""
    _NAMES.unlink(missing_ok=True)


def laid_out_index() -> dict[str, Any]:
    """Return the layout's index, with each image's name as containerd reads it."""
    index: dict[str, Any] = json.loads((LAYOUT / "index.json").read_text())
    for descriptor in index["manifests"]:
        tag = descriptor["annotations"]["org.opencontainers.image.ref.name"]
        descriptor["annotations"]["io.containerd.image.name"] = laid_out()[tag]
    return index


def laid_out_blobs() -> list[str]:
    """Return the digests of all that the images consist of: manifests, configurations, layers."""
    found: dict[str, None] = {}
    for descriptor in laid_out_index()["manifests"]:
        manifest = json.loads(blob(descriptor["digest"]).read_text())
        for part in [descriptor, manifest["config"], *manifest["layers"]]:
            found[part["digest"]] = None
    return list(found)


def blob(digest: str) -> Path:
    """Return where a blob of the layout lies."""
    return LAYOUT / "blobs" / digest.replace(":", "/")


def _inspected(image: str) -> str:
    return _run("buildah", "inspect", "--type", "image", image)


def _exists(image: str) -> bool:
    return _in_store("buildah", "inspect", "--type", "image", image).returncode == 0


def _run(*command: str) -> str:
    done = _in_store(*command)
    if done.returncode:
        raise CannotBuildError(_failure(done))
    return done.stdout.strip()


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stdout + done.stderr)[-4000:]
    return f"{' '.join(done.args)} ended with {done.returncode}:\n{said}"


def _in_store(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with buildah's images under STATE, and with mounts that end with it."""
    _STORAGE.write_text(
        f'[storage]\ndriver = "overlay"\n'
        f'graphroot = "{STATE}/buildah"\nrunroot = "{STATE}/buildah-run"\n'
    )
    settings = {
        "CONTAINERS_STORAGE_CONF": str(_STORAGE),
        "BUILDAH_ISOLATION": "chroot",
        "BUILDAH_LAYERS": "true",
        "TMPDIR": str(_TEMPORARY),
    }
    return subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", *command],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
