"""Raise the cluster and run the scenarios, or keep it: `make e2e`, `make cluster`.

    python -m cluster.e2e [control-plane] [--up | --prepare] [pytest's arguments]

`control-plane`: only what needs no node, and so neither image nor containerd. `--prepare` builds
what is missing and raises nothing; it works beside a cluster that is up.

Three processes deep: this one prepares (programs and images need the network) and cleans up; the
first one inside the namespaces furnishes them and reaps; pytest, or the cluster that is kept, is
that one's child.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from cluster.e2e import containerd, images, machine
from cluster.e2e.machine import BusyError, CannotRunError
from helm.program import helm
from programs import CannotBuildError, build, folder, program

_CONTROL_PLANE = ("kubernetes", "etcd", "kuberay", "kuberay-files", "gateway-api-files", "minio")
_NODE = ("containerd", "cni", "coredns")
_PYTEST = (
    *(sys.executable, "-m", "pytest", "-p", "quality.retries", "-p", "cluster.e2e.clock"),
    "tests/cluster/e2e",
)
_INSIDE = (sys.executable, "-m", "cluster.e2e")


@dataclass(frozen=True)
class _Part:
    """What is raised, and which scenarios that is enough for."""

    mark: str
    programs: tuple[str, ...]
    tools: dict[str, str]
    gigabytes: int
    """On disk, while the last of it is made."""
    has_node: bool


_WHOLE = _Part(
    mark="e2e",
    programs=_CONTROL_PLANE + _NODE,
    tools=machine.TOOLS | machine.NODE_TOOLS,
    gigabytes=24,  # measured: 22
    has_node=True,
)
_WITHOUT_NODE = _Part(
    mark="control_plane",
    programs=_CONTROL_PLANE,
    tools=machine.TOOLS,
    gigabytes=1,
    has_node=False,
)


def main(arguments: Sequence[str]) -> int:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if arguments[:1] == ["--inside"]:
        return _furnish_and_run(arguments[1:])
    if arguments[:1] == ["--keep"]:
        return _keep()
    if arguments[:1] == ["--take-images"]:
        containerd.take_images()
        return 0
    part = _WHOLE
    if arguments[:1] == ["control-plane"]:
        part, arguments = _WITHOUT_NODE, arguments[1:]
    try:
        machine.check()
        machine.STATE.mkdir(parents=True, exist_ok=True)
        if arguments[:1] == ["--prepare"]:
            with contextlib.ExitStack() as stack:
                _prepare(part, stack)
                if part.has_node and not containerd.has_images():
                    _take_images()
                build("helm")  # what the wheel's is compared with
            return 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(machine.alone())
            signal.signal(signal.SIGTERM, _leave)
            stack.callback(machine.give_back)
            image = _prepare(part, stack)
            if not helm():  # pip brings one; this is where the wheel has none that runs here
                build("helm")
            machine.begin()
            child = (*_INSIDE, "--keep") if arguments[:1] == ["--up"] else _pytest(part, arguments)
            return _run_inside(child, image)
    except (CannotRunError, CannotBuildError) as error:
        return _skip(str(error), part, arguments)
    except (BusyError, images.BrokenImageError) as error:
        print(error, file=sys.stderr)
        return 1


def _leave(*_: object) -> NoReturn:
    """End at once: what was started ends with this process."""
    machine.give_back()
    os._exit(143)


def _pytest(part: _Part, arguments: Sequence[str]) -> tuple[str, ...]:
    return (*_PYTEST, "-m", part.mark, *arguments)


def _prepare(part: _Part, stack: contextlib.ExitStack) -> str | None:
    """Make what is missing of tools, programs and images; return the name of Graft's image.

    Programs take processors, the image mostly network and disk: side by side. The images are this
    process's own until the stack is closed.
    """
    if part.has_node:
        stack.enter_context(machine.turn("images"))
    machine.check_space(part.gigabytes)
    with machine.turn("tools"), machine.phase("Debian's tools"):
        machine.install_tools(part.tools)
    with ThreadPoolExecutor() as pool:
        image = pool.submit(images.make_images) if part.has_node else None
        with machine.phase("programs"):
            for name in part.programs:
                build(name)
        return image.result() if image else None


def _take_images() -> None:
    """Have containerd take the images in, with its own folders beside those of a cluster."""
    done = subprocess.run(
        [*machine.NAMESPACES, *_INSIDE, "--take-images"],
        env=os.environ | {"GRAFT_E2E_RUN": "-images"},
        cwd=machine.ROOT,
    )
    if done.returncode:
        print("the images are not in containerd yet: the next cluster sees to that", flush=True)


def _skip(why: str, part: _Part, arguments: Sequence[str]) -> int:
    print(f"no cluster can be raised here: {why}", flush=True)
    if arguments[:1] in (["--up"], ["--prepare"]) or "GRAFT_E2E_REQUIRED" in os.environ:
        return 1
    reason = {"GRAFT_E2E_CANNOT": why.partition("\n")[0]}
    return subprocess.run(
        _pytest(part, arguments), env=os.environ | reason, cwd=machine.ROOT
    ).returncode


def _run_inside(child: Sequence[str], image: str | None) -> int:
    own = {
        "GRAFT_E2E_IMAGE": image or "",
        "GRAFT_E2E_PHASES": json.dumps(machine.phases()),
    }
    inside = subprocess.Popen(
        [*machine.NAMESPACES, *_INSIDE, "--inside", *child],
        env=os.environ | own,
        cwd=machine.ROOT,
    )
    (machine.RUN / "enter").write_text(
        f"nsenter -t {inside.pid} -n -m --pid=/proc/{inside.pid}/ns/pid_for_children "
        f"bash --rcfile {machine.RUN}/environment.sh"
    )
    try:
        return inside.wait()
    except KeyboardInterrupt:  # it reached them, too: they end by themselves
        with contextlib.suppress(subprocess.TimeoutExpired):
            inside.wait(30)
        return 130
    finally:
        inside.kill()  # and with it all that is in the namespaces
        inside.wait()


def _image() -> str | None:
    """Return the image of the cluster that is to be raised; None for one without a node."""
    return os.environ["GRAFT_E2E_IMAGE"] or None


def _furnish_and_run(child: Sequence[str]) -> int:
    """Be the first process of the namespaces: all that runs in them ends with it."""
    signal.signal(signal.SIGINT, lambda *_: None)  # the child's to handle
    machine.enclose(node=_image() is not None)
    started = os.posix_spawn(child[0], child, os.environ)
    while True:  # every orphan is this process's to bury
        ended, status = os.wait()
        if ended == started:
            return os.waitstatus_to_exitcode(status)


def _keep() -> int:
    from cluster.e2e.raising import raise_cluster

    with raise_cluster(_image()) as cluster:
        variables = cluster.environment | {
            "KUBECONFIG": cluster.kubeconfig,
            "GRAFT_STORE": cluster.store,
            "GRAFT_E2E_CLUSTER": str(machine.RUN / "cluster.json"),
        }
        helms = (helm() or program("helm")).parent
        programs = f"{folder('kubernetes')}:{folder('containerd')}:{helms}"
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines += [f"export PATH={programs}:{machine.ROOT}/.venv/bin:$PATH"]
        (machine.RUN / "environment.sh").write_text("\n".join(lines) + "\n")
        for name, seconds in machine.phases():
            print(f"{seconds:8.1f} s  {name}")
        print(
            f"The cluster is up, with {cluster.image}. From another terminal:\n"
            f"  {(machine.RUN / 'enter').read_text()}\n"
            "Ctrl-C here ends it.",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
