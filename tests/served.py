"""A real `graft serve` in a session of its own, and what its processes are."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GRAFT = Path(sys.executable).with_name("graft")
MARK = "GRAFT_TEST_MARK"


@dataclass(frozen=True)
class Served:
    """A `graft serve` that answers."""

    process: "subprocess.Popen[str]"
    port: int
    mark: str

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def processes(self) -> dict[int, str]:
        """The command lines of all processes that it has started, and its own."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                variables = (process / "environ").read_bytes().split(b"\0")
                if f"{MARK}={self.mark}".encode() in variables:
                    words = (process / "cmdline").read_bytes().decode().split("\0")
                    found[int(process.name)] = " ".join(words).strip()
        return found

    def memory(self) -> dict[str, int]:
        """The bytes that each program of it has for itself, and its share of what several have."""
        taken: dict[str, int] = {}
        for process, command in self.processes().items():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                (size,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
                name = Path(command.split()[0]).name if command else "?"
                taken[name] = taken.get(name, 0) + size * 1024
        return taken


@contextlib.contextmanager
def serving(store: str, model: str, log: Path, *options: str) -> Iterator[Served]:
    """Start `graft serve` on a free port, and end it if nobody has."""
    words = ["serve", model, "--port", "0", "--json", "--store", store, *options]
    mark = uuid.uuid4().hex
    with log.open("w") as err:
        process = subprocess.Popen(
            [GRAFT, *words],
            env=os.environ | {MARK: mark},
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,  # as a terminal's, which sends Ctrl-C to all of its group
        )
    with process:
        try:
            assert process.stdout
            document = ""
            while not document.endswith("\n}\n"):
                line = process.stdout.readline()
                assert line, log.read_text()
                document += line
            yield Served(process, int(json.loads(document)["url"].rpartition(":")[2]), mark)
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(120)
            process.kill()
