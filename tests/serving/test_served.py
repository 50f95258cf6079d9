"""A real `graft serve`, as its users run it, among those who mean no good; and how it stops."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clients import Clients, attack_all
from graft.registry import ModelVersion
from graft.serving import haproxy
from graft.store import Store
from hostile import DRAWS, attacks
from served import Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PREDICT = "/v1/models/ants-bees/predict"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, register_model: Callable[..., ModelVersion]
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    register_model(Store.open(str(folder / "store")))
    with serving(str(folder / "store"), "ants-bees", folder / "log") as served:
        yield served


def test_hostile_requests_are_refused_and_others_answered(
    served: Served, photograph: Callable[..., bytes]
) -> None:
    """`make bench` has ten thousand, and what they take."""
    replicas = replicas_of(served)
    count = 20 * len(DRAWS)
    with Clients(served.port, PREDICT, [photograph(1), photograph(2)]) as clients:
        outcomes = asyncio.run(attack_all(attacks(0, "ants-bees", count), served.port, at_once=8))
    assert outcomes.total() == count
    assert len({outcome.kind for outcome in outcomes}) == len(DRAWS) + 1  # and large images
    assert {outcome: times for outcome, times in outcomes.items() if outcome.is_fault} == {}
    assert clients.failures == []
    assert clients.answers
    assert replicas_of(served) == replicas  # nobody was started again


def replicas_of(served: Served) -> set[int]:
    return {pid for pid, command in served.processes().items() if "ServeReplica" in command}


def test_ctrl_c_cuts_off_nothing_that_has_begun(
    served: Served, photograph: Callable[..., bytes]
) -> None:
    """The last of these tests: it stops the server."""
    data = photograph(1)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    words = " ".join(served.processes().values()).split()
    (configuration,) = {word for word in words if word.endswith("/haproxy.cfg")}
    (admin_socket,) = Path(configuration).parents[1].rglob("admin.sock")
    with ExitStack() as stack:
        images = [photograph(2), photograph(3)]
        busy = stack.enter_context(Clients(served.port, PREDICT, images, until_refused=True))
        late = [stack.enter_context(served.connect()) for _ in range(20)]
        for client in late:
            client.sendall(head + data[:100])
        # A connection that HAProxy has not accepted yet has not begun.
        with haproxy.administrator(admin_socket) as ask:
            while ask("show sess").count(" fe=http_frontend ") < len(late):
                time.sleep(0.05)
        os.killpg(served.process.pid, signal.SIGINT)
        while served.listens():
            time.sleep(0.05)
        for client in late:
            client.sendall(data[100:])
        answers = [b"".join(iter(lambda c=client: c.recv(65536), b"")) for client in late]
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert busy.failures == []
    assert served.process.wait(120) == 0
    assert served.processes() == {}
    assert not Path(configuration).exists()
