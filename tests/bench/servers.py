"""The servers that are compared: how each is started, and what can be tuned of it."""

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from lab import Lab
from processes import Started
from tuning import Axis, Setting

from programs import CACHE

RIVALS = Path(__file__).parent / "rivals"
GRAFT = Path(sys.executable).with_name("graft")
CORES = 2
"""That each server has, and the clients beside it."""
READY_S = 300.0
"""How long a server may take until it answers, in seconds."""

PROCESSES: Axis = ({"workers": CORES, "threads": 1}, {"workers": 1, "threads": CORES})
BATCHES: Axis = ({"batch": 1}, {"batch": 8})
PROXIES: Axis = ({"haproxy": True}, {"haproxy": False})


class CannotServeError(Exception):
    """A server is not to be had here, or does not come up; why, in a line."""


@dataclass(frozen=True)
class Server:
    """A kind of server."""

    name: str
    path: str
    """Where it takes images."""
    command: Callable[[Setting, int], list[str | Path]]
    """Of a setting and a port."""
    axes: Sequence[Axis] = ()
    """What is tuned, one after another; without any, it runs as it comes."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    started: Started
    url: str
    """Where it takes images."""
    document: dict[str, Any]
    """What it answered to the photograph."""
    headers: Mapping[str, str]
    """Of a request."""


@contextlib.contextmanager
def running(
    server: Server, setting: Setting, lab: Lab, headers: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a server, and end it with the block.

    Raises:
        CannotServeError: it does not answer.
    """
    port = _free_port()
    command = server.command(setting, port)
    with (
        tempfile.NamedTemporaryFile(prefix="server-", suffix=".log", dir=lab.folder) as log,
        Started(command, Path(log.name), {"PYTHONPATH": str(RIVALS)}) as started,
    ):
        url = f"http://127.0.0.1:{port}{server.path}"
        asked = {"Content-Type": "image/jpeg", **(headers or {})}
        answer = _first_answer(server.name, started, url, lab.photograph.read_bytes(), asked)
        yield Running(started, url, answer.json(), asked)


def graft(lab: Lab, engine: str = "auto", more: Sequence[str | Path] = ()) -> Server:
    """Return `graft serve` with an engine."""

    def command(setting: Setting, port: int) -> list[str | Path]:
        words: list[str | Path] = [GRAFT, "serve", lab.name, "--port", str(port), *more]
        words += ["--store", lab.store.uri, "--replicas", str(setting["workers"])]
        return [*words, "--cpus-per-replica", str(setting["threads"]), "--engine", engine]

    return Server("Graft", f"/v1/models/{lab.name}/predict", command, [PROCESSES])


def ray_serve(lab: Lab, tuned: bool) -> Server:
    """Return Ray Serve with eager torch."""

    def command(setting: Setting, port: int) -> list[str | Path]:
        options = {"model": str(lab.exported("safetensors")), "port": port, **setting}
        return [sys.executable, RIVALS / "ray_serve.py", json.dumps(options)]

    name = f"Ray Serve, eager torch, {'tuned' if tuned else 'default settings'}"
    return Server(name, "/predict", command, [PROCESSES, BATCHES, PROXIES] if tuned else [])


def litserve(lab: Lab) -> Server:
    """Return LitServe with the exported ONNX file."""
    return _of_onnx("LitServe", "litserve", "/predict", lab, [PROCESSES, BATCHES])


def kserve(lab: Lab) -> Server:
    """Return KServe's Python server with the exported ONNX file."""
    return _of_onnx("KServe", "kserve", "/v1/models/bench:predict", lab, [PROCESSES])


def _of_onnx(name: str, rival: str, path: str, lab: Lab, axes: Sequence[Axis]) -> Server:
    def command(setting: Setting, port: int) -> list[str | Path]:
        options = {"model": str(lab.exported("onnx")), "port": port, **setting}
        return [environment(rival), RIVALS / f"{rival}_server.py", json.dumps(options)]

    release = next(
        line.partition("==")[2]
        for line in (RIVALS / f"{rival}.txt").read_text().splitlines()
        if line.startswith(f"{rival}==")
    )
    return Server(f"{name} {release}, ONNX Runtime", path, command, axes)


def environment(rival: str, beside: bool = False) -> Path:
    """Return the Python of a rival's own environment, which is made the first time.

    `beside`: what this environment has is there, too, for what the rival's does not have.

    Raises:
        CannotServeError: pip cannot install what it needs.
    """
    requirements = RIVALS / f"{rival}.txt"
    content = f"{sys.version_info[:2]} {requirements.read_text()}"
    folder = CACHE / f"bench-{rival}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    python, whole = folder / "bin" / "python", folder / ".installed"
    if whole.exists():
        return python
    print(f"making an environment for {rival}, once: {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--quiet", "--no-deps", "--no-compile")  # each module is compiled as it is imported
    install = [python, "-m", "pip", "install", *options, "-r", requirements]
    for command in ([sys.executable, "-m", "venv", folder], install):
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            why = done.stderr.strip().splitlines() or ["no reason given"]
            raise CannotServeError(f"no environment for {rival}: {why[-1]}")
    if beside:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))
    whole.touch()
    return python


def _first_answer(
    name: str,
    started: Started,
    url: str,
    data: bytes,
    headers: Mapping[str, str],
) -> httpx.Response:
    deadline = time.monotonic() + READY_S
    said = "nothing"
    while time.monotonic() < deadline and started.lives:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(url, content=data, headers=headers, timeout=60, trust_env=False)
            if answer.is_success:
                return answer
            said = f"{answer.status_code}: {answer.text[:300]}"
        time.sleep(0.2)
    raise CannotServeError(f"{name} answers {said}; it wrote: {started.said}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
