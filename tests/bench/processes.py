"""What a bench has started: its processes, the memory they take, and their end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_S = 30.0
"""How long a command that is told to end may take before it is killed, in seconds."""
LEFT_S = 5.0
"""How long what it leaves may take after it, in seconds."""
_NEIGHBOUR = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Memory:
    """Memory of processes together, in bytes."""

    rss: int = 0
    """What they share counts once for each."""
    pss: int = 0
    """What they share counts once."""

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.rss + other.rss, self.pss + other.pss)


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    began: int
    """In clock ticks since the machine's start: another process with this pid has another one."""


class Started:
    """A command that runs, and all that it starts."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str]):
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | env,
                start_new_session=True,  # Ctrl-C is for the bench, which then ends them in turn
            )
        self._log = log

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in _tree(self._process.pid)]

    def memory(self) -> dict[str, Memory]:
        """Return the memory of its processes by what they are called."""
        sizes: dict[str, Memory] = {}
        for pid in self.pids:
            with contextlib.suppress(OSError):  # it has ended
                name = title(pid)
                sizes[name] = sizes.get(name, Memory()) + _memory(pid)
        return sizes

    def stop(self) -> None:
        """Have it end, and kill what it leaves."""
        left = set(_tree(self._process.pid))
        if self.lives:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        killing = time.monotonic() + (0 if self.lives else LEFT_S)
        while left := {one for process in left if _lives(process) for one in _tree(process.pid)}:
            if time.monotonic() > killing + STOP_S:
                raise RuntimeError(f"these processes cannot be killed: {left}")
            if time.monotonic() > killing:
                for process in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            self._process.poll()  # else it stays, as a zombie
            time.sleep(0.02)


@contextlib.contextmanager
def busy_neighbour(core: int) -> Iterator[None]:
    """Keep one core busy, by another process that ends with this one."""
    neighbour = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR])
    try:
        os.sched_setaffinity(neighbour.pid, {core})
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


def end_on_sigterm() -> None:
    """Have SIGTERM unwind this process, as Ctrl-C does, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def title(pid: int) -> str:
    """Return what a process calls itself, without what differs between two of its kind."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    words = [word.decode(errors="replace") for word in command if word]
    if not words:
        return "?"
    name = words[0]
    if name.startswith("ray::"):  # it has written its title over the whole command line
        return re.split(r"[.(# ]", name)[0]
    scripts = [Path(word).name for word in words[1:] if word.endswith((".py", "/graft"))]
    return scripts[0] if scripts else Path(name).name


def total(sizes: Mapping[str, Memory]) -> Memory:
    return sum(sizes.values(), Memory())


def _memory(pid: int) -> Memory:
    fields = dict.fromkeys(("Rss", "Pss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in fields:
            fields[name] = int(rest.split()[0]) * 1024
    return Memory(fields["Rss"], fields["Pss"])


def _tree(root: int) -> list[_Process]:
    """Return a process and all that descend from it."""
    children: dict[int, list[_Process]] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            process = _parse(int(folder.name), (folder / "stat").read_text())
            children.setdefault(process.parent, []).append(process)
            if process.pid == root:
                found.append(process)
    for process in found:
        found += children.get(process.pid, [])
    return found


def _lives(process: _Process) -> bool:
    """Whether it has not ended; a zombie has."""
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return False
    state = text.rpartition(")")[2].split()[0]
    return state != "Z" and _parse(process.pid, text).began == process.began


def _parse(pid: int, stat: str) -> _Process:
    fields = stat.rpartition(")")[2].split()  # the name before it may have any letters
    return _Process(pid, parent=int(fields[1]), began=int(fields[19]))
