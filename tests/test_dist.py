"""What `make dist` makes: the same bytes anywhere, which pip, helm and registries take."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from helm.rendering import CHART, LEAST, needs_helm, run_helm
from programs import VERSIONS

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "deploy", "helm")


def make(clone: Path) -> dict[str, bytes]:
    """Make a release of a copy of the sources."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, copy_function=shutil.copy)
        else:
            shutil.copy(ROOT / name, clone / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "platform", clone / "platform", ignore=ignored)
    folder = clone / "dist"
    subprocess.run([sys.executable, clone / "deploy/dist.py", folder], check=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    make(folder)
    return folder


@pytest.mark.slow
def test_the_same_sources_make_the_same_bytes(clone: Path, tmp_path: Path) -> None:
    first = {file.name: file.read_bytes() for file in (clone / "dist").iterdir()}
    mask = os.umask(0o077)
    try:
        second = make(tmp_path)
    finally:
        os.umask(mask)
    assert second == first
    sums = [line.split() for line in first["SHA256SUMS"].decode().splitlines()]
    assert {name: digest for digest, name in sums} == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in first.items()
        if name != "SHA256SUMS"
    }


@pytest.mark.slow
def test_the_wheel_is_graft_under_a_name_that_is_free(clone: Path) -> None:
    (wheel,) = (clone / "dist").glob("graft_vision-*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if name.startswith("graft/")}
        (points,) = (name for name in files.namelist() if name.endswith("entry_points.txt"))
        assert "graft = graft.cli.main:script" in files.read(points).decode()
    package = ROOT / "platform"
    sources = (file for file in (package / "graft").rglob("*") if file.is_file())
    assert names == {
        str(file.relative_to(package)) for file in sources if "__pycache__" not in file.parts
    }


@pytest.mark.slow
@needs_helm
def test_the_chart_renders_as_its_folder_does(clone: Path) -> None:
    (chart,) = (clone / "dist").glob("graft-*.tgz")
    version = ("--kube-version", VERSIONS["KUBERNETES"])
    rendered = [
        run_helm("template", "graft", where, *version, values=LEAST) for where in (chart, CHART)
    ]
    assert [done.returncode for done in rendered] == [0, 0], rendered[0].stderr
    assert rendered[0].stdout == rendered[1].stdout
    assert rendered[0].stdout.count("\nkind: ") > 3


class Registry(BaseHTTPRequestHandler):
    """As much of a registry of containers as keeps what is pushed to it (OCI distribution 1.1)."""

    kept: ClassVar[dict[str, tuple[bytes, str]]] = {}
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.answer(202, Location=f"{self.path}upload")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name in (digest, self.path.rpartition("/")[2]):
            self.kept[name] = (body, self.headers["Content-Type"])
        self.answer(201, Docker_Content_Digest=digest)

    def do_GET(self) -> None:
        body, kind = self.kept.get(self.path.rpartition("/")[2], (None, ""))
        if body is None:
            self.answer(404)
        else:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.answer(200, body, Content_Type=kind, Docker_Content_Digest=digest)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@needs_helm
def test_the_chart_goes_through_a_registry(clone: Path) -> None:
    (chart,) = (clone / "dist").glob("graft-*.tgz")
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as registry:
        Thread(target=registry.serve_forever).start()
        try:
            where = f"oci://127.0.0.1:{registry.server_port}/charts"
            pushed = run_helm("push", chart, where, "--plain-http")
            assert pushed.returncode == 0, pushed.stderr
            version = ("--kube-version", VERSIONS["KUBERNETES"])
            release = chart.stem.removeprefix("graft-")
            words = (
                "template",
                "graft",
                f"{where}/graft",
                "--plain-http",
                "--version",
                release,
                *version,
            )
            rendered = run_helm(*words, values=LEAST)
        finally:
            registry.shutdown()
    assert rendered.returncode == 0, rendered.stderr
    of_folder = run_helm("template", "graft", CHART, *version, values=LEAST)
    assert rendered.stdout.endswith(of_folder.stdout.partition("\n")[2])  # after what was pulled
