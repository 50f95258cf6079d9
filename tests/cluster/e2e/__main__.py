"""Raise the cluster and run the scenarios, or keep it: `make e2e`, `make cluster`.

    python -m cluster.e2e [--up | --prepare] [pytest's arguments]

Three processes deep: this one prepares (programs and images need the network) and cleans up; the
first one inside the namespaces furnishes them and reaps; pytest, or the cluster that is kept, is
that one's child.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from cluster.e2e import images, machine
from cluster.e2e.machine import BusyError, CannotRunError
from programs import CannotBuildError, build, folder

_PROGRAMS = (
    *("kubernetes", "etcd", "containerd", "cni", "coredns", "kuberay", "kuberay-files"),
    *("minio", "helm"),
)
_PYTEST = [sys.executable, "-m", "pytest", "-m", "e2e", "tests/cluster/e2e"]
_INSIDE = [sys.executable, "-m", "cluster.e2e"]


def main(arguments: Sequence[str]) -> int:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if arguments[:1] == ["--inside"]:
        return _furnish_and_run(arguments[1:])
    if arguments[:1] == ["--keep"]:
        return _keep()
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.ExitStack() as stack:
        try:
            machine.check()
            stack.enter_context(machine.alone())
            machine.check_space()
            machine.begin()
            stack.callback(machine.give_back)
            image = _prepare()
        except (CannotRunError, CannotBuildError) as error:
            return _skip(str(error), arguments)
        except (BusyError, images.BrokenImageError) as error:
            print(error, file=sys.stderr)
            return 1
        if arguments[:1] == ["--prepare"]:
            return 0
        child = [*_INSIDE, "--keep"] if arguments[:1] == ["--up"] else [*_PYTEST, *arguments]
        return _run_inside(child, image)


def _leave(*_: object) -> NoReturn:
    """End at once: what was started ends with this process."""
    machine.give_back()
    os._exit(143)


def _prepare() -> str:
    """Make what is missing of tools, programs and images; return the name of Graft's image.

    Programs take processors, the image mostly network and disk: side by side.
    """
    with machine.phase("Debian's tools"):
        machine.install_tools()
    with ThreadPoolExecutor() as pool:
        image = pool.submit(images.make_images)
        with machine.phase("programs"):
            for name in _PROGRAMS:
                build(name)
        return image.result()


def _skip(why: str, arguments: Sequence[str]) -> int:
    print(f"no cluster can be raised here: {why}", flush=True)
    if arguments[:1] in (["--up"], ["--prepare"]):
        return 1
    reason = {"GRAFT_E2E_CANNOT": why.partition("\n")[0]}
    return subprocess.run(
        [*_PYTEST, *arguments], env=os.environ | reason, cwd=machine.ROOT
    ).returncode


def _run_inside(child: list[str], image: str) -> int:
    inside = subprocess.Popen(
        [*machine.NAMESPACES, *_INSIDE, "--inside", *child],
        env=os.environ | {"GRAFT_E2E_IMAGE": image},
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


def _furnish_and_run(child: Sequence[str]) -> int:
    """Be the first process of the namespaces: all that runs in them ends with it."""
    signal.signal(signal.SIGINT, lambda *_: None)  # the child's to handle
    machine.enclose()
    started = os.posix_spawn(child[0], child, os.environ)
    while True:  # every orphan is this process's to bury
        ended, status = os.wait()
        if ended == started:
            return os.waitstatus_to_exitcode(status)


def _keep() -> int:
    from cluster.e2e.raising import raise_cluster

    with raise_cluster(os.environ["GRAFT_E2E_IMAGE"]) as cluster:
        variables = cluster.environment | {
            "KUBECONFIG": cluster.kubeconfig,
            "GRAFT_STORE": cluster.store,
            "GRAFT_E2E_CLUSTER": str(machine.RUN / "cluster.json"),
        }
        programs = ":".join(str(folder(name)) for name in ("kubernetes", "helm", "containerd"))
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
