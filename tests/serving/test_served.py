"""A real `graft serve`, as its users run it, among those who mean no good; and how it stops."""

import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import GRAFT
from graft.registry import ModelVersion
from graft.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MARK = "GRAFT_TEST_MARK"
PREDICT = "/v1/models/ants-bees/predict"


@dataclass(frozen=True)
class Served:
    """A `graft serve` that runs."""

    process: "subprocess.Popen[str]"
    port: int
    mark: str

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def processes(self) -> dict[int, str]:
        """The command lines of all processes that it has started, and of itself."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
                if f"{MARK}={self.mark}".encode() in variables:
                    words = (process / "cmdline").read_bytes().decode().split("\0")
                    found[int(process.name)] = " ".join(words)
            except OSError:
                continue  # it has ended
        return found


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, register_model: Callable[..., ModelVersion]
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    register_model(Store.open(str(folder / "store")))
    words = ["serve", "ants-bees", "--port", "0", "--json", "--store", str(folder / "store")]
    mark = uuid.uuid4().hex
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [GRAFT, *words],
            env=os.environ | {MARK: mark},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # as of a terminal, which sends Ctrl-C to all of it
        )
        with process:
            assert process.stdout
            document = ""
            while not document.endswith("}\n"):
                line = process.stdout.readline()
                assert line, (folder / "log").read_text()
                document += line
            port = int(json.loads(document)["url"].rpartition(":")[2])
            yield Served(process, port, mark)
            process.kill()


def test_ctrl_c_cuts_off_nothing_that_has_begun(
    served: Served, photograph: Callable[..., bytes]
) -> None:
    """The last of these tests: it stops the server."""
    data = photograph(1)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    words = " ".join(served.processes().values()).split()
    (configuration,) = {word for word in words if word.endswith("/haproxy.cfg")}
    with ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(head + data[:100])
        os.killpg(served.process.pid, signal.SIGINT)
        while is_open(served.port):
            time.sleep(0.05)
        for client in clients:
            client.sendall(data[100:])
        answers = [b"".join(iter(lambda c=client: c.recv(65536), b"")) for client in clients]
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert served.process.wait(120) == 0
    assert served.processes() == {}
    assert not Path(configuration).exists()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
