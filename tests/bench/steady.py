"""Load at a steady rate, which does not wait for who is late; it knows why a request failed."""

import contextlib
import itertools
import json
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import numpy as np

CONNECTIONS = 32
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    due: float
    """When it was to be sent, by `time.monotonic`."""
    seconds: float
    """From then on until its answer was there."""
    status: int
    """0: there was no answer."""
    said: str
    """NAME@VERSION that answered, else why it failed."""


class Steady:
    """Posts a file `rate` times a second until it is stopped, or has done so `most` times."""

    def __init__(
        self,
        url: str,
        data: bytes,
        rate: float,
        most: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        self.answers: list[Answer] = []
        self._address = urlsplit(url)
        self._data = data
        self._rate = rate
        self._most = most
        self._headers = dict(headers or {})
        self._tickets = itertools.count()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, daemon=True)
            for _ in range(min(CONNECTIONS, most or CONNECTIONS))
        ]

    def __enter__(self) -> "Steady":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def wait_for(self, answers: int) -> None:
        """Wait until there are so many answers."""
        while len(self.answers) < answers and not self.is_over:
            time.sleep(0.05)

    def _client(self) -> None:
        connection = self._connection()
        while not self._stop.is_set():
            number = next(self._tickets)
            due = self._began + number / self._rate
            if number >= (self._most or number + 1) or self._stop.wait(due - time.monotonic()):
                break
            if connection.sock and _is_closed(connection):
                connection.close()  # the next request opens it again, as clients do
            status, said = self._ask(connection)
            self.answers.append(Answer(due, time.monotonic() - due, status, said))
        connection.close()

    def _ask(self, connection: HTTPConnection) -> tuple[int, str]:
        try:
            connection.request("POST", self._address.path, self._data, self._headers)
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            return 0, repr(error)
        return answer.status, document.get("model") or document.get("error") or "?"

    def _connection(self) -> HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        return HTTPConnection(host, port, timeout=TIMEOUT_S)


def failures(answers: list[Answer]) -> Counter[str]:
    """Return how many failed, by the reason."""
    return Counter(f"{one.status}: {one.said}" for one in answers if one.status != 200)


def milliseconds(answers: list[Answer], *percentiles: float) -> list[float]:
    """Return percentiles of the times that answers took."""
    return [1e3 * value for value in np.percentile([one.seconds for one in answers], percentiles)]


def _is_closed(connection: HTTPConnection) -> bool:
    """Whether the server has closed an idle connection."""
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([connection.sock], [], [], 0)[0])
    return True
