"""Clients of a served model: those that send what is hostile, and those that ask well beside them.

What is hostile comes from an address of loopback of its own, so that a server tells them apart.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from hostile import Attack

ATTACKER = "127.0.0.66"
"""From where hostile requests come; all of 127.0.0.0/8 is this machine."""
ANSWER_S = 90
"""How long an attacker waits for an answer, in seconds."""
CLOSED, LEFT, SILENT = "closed", "we left", "silent"
JSON, LATER, NO_JSON = "JSON", "JSON, Retry-After", "no JSON"


@dataclass(frozen=True)
class Outcome:
    """What came of a hostile request."""

    kind: str
    status: int | None = None
    """None: no answer came."""
    said: str = ""
    """What the answer is beside its status, or why there is none."""

    @property
    def is_fault(self) -> bool:
        """Whether the server should have refused it; 503 does, if it says when to try again."""
        if self.status is None:
            return self.said == SILENT
        return self.status >= 500 and (self.status, self.said) != (503, LATER)


async def attack_all(waves: Iterable[Attack], port: int, at_once: int) -> Counter[Outcome]:
    """Send attacks to a server, `at_once` at a time, and those that trickle beside them."""
    outcomes: Counter[Outcome] = Counter()
    coming = iter(waves)
    async with asyncio.TaskGroup() as tasks:

        async def one(attack: Attack) -> None:
            outcomes[await _outcome(attack, port)] += 1

        async def several() -> None:
            for attack in coming:
                if attack.trickles:
                    tasks.create_task(one(attack))
                else:
                    await one(attack)

        for _ in range(at_once):
            tasks.create_task(several())
    return outcomes


async def _outcome(attack: Attack, port: int) -> Outcome:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ATTACKER, 0))
    except OSError:
        return Outcome(attack.kind, None, CLOSED)
    sending = asyncio.create_task(_send(attack, writer))
    try:
        if attack.leaves:
            await sending
            return Outcome(attack.kind, None, LEFT)
        async with asyncio.timeout(ANSWER_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return Outcome(attack.kind, None, SILENT)
    except (OSError, asyncio.IncompleteReadError):
        return Outcome(attack.kind, None, CLOSED)
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        writer.transport.abort()
    said = JSON if b"application/json" in head.lower() else NO_JSON
    if said == JSON and b"retry-after: " in head.lower():
        said = LATER
    return Outcome(attack.kind, int(head.split(maxsplit=2)[1]), said)


async def _send(attack: Attack, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # whoever refuses may not read it all
        writer.write(attack.data)
        await writer.drain()
        while attack.trickles:
            await asyncio.sleep(1)
            writer.write(b"x")
            await writer.drain()


@dataclass(frozen=True)
class Answer:
    """A prediction, which a client asked for."""

    image: int
    """Which one of the images."""
    seconds: float
    """How long it took."""
    body: bytes


class Clients:
    """Clients that each ask for one image all the time, on a connection that they keep."""

    def __init__(self, port: int, path: str, images: list[bytes], until_refused: bool = False):
        """Ask the server at `port` of this machine, maybe until it takes no connection any more."""
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._until_refused = until_refused
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port, path, number, image))
            for number, image in enumerate(images)
        ]

    def _ask(self, port: int, path: str, number: int, image: bytes) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", path, image)
                answer = connection.getresponse()
                body = answer.read()
            except (HTTPException, OSError) as error:
                if self._until_refused and isinstance(error, ConnectionRefusedError):
                    return
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status == 200:
                self.answers.append(Answer(number, time.perf_counter() - began, body))
            else:
                self.failures.append(f"{answer.status} {body[:200]!r}")
        connection.close()

    @property
    def seconds(self) -> list[float]:
        """How long answers took."""
        return [answer.seconds for answer in self.answers]

    def wait_for(self, answers: int) -> None:
        """Wait until there were so many answers."""
        while len(self.answers) < answers and not self.failures:
            time.sleep(0.05)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
