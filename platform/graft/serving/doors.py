"""Who may come in: places, memory and time, shared among those who ask.

A replica takes what it can answer soon, and refuses the rest at once, with the time after which to
try again. Nobody gets more than is left for others: a caller who asks for all finds half of it, and
two such callers a third each, so that there is always room for one more.
"""

import asyncio
import math
import re
import reprlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request

from graft.serving.exchange import Exchange
from graft.serving.limits import Limits

CALLER_HEADER = "x-graft-client"
"""Where HAProxy says which address asks; what a client sends under that name does not arrive."""

_LONGEST_RETRY_S = 30
_REMEMBERED = 50
"""Answers over which a server's pace is averaged."""


class Refused(HTTPException):
    """A request that is not answered now, and when to try again."""

    def __init__(self, status: int, reason: str, retry_after_s: float | None = None):
        headers = None
        if retry_after_s is not None:
            seconds = min(max(math.ceil(retry_after_s), 1), _LONGEST_RETRY_S)
            headers = {"Retry-After": str(seconds)}
        super().__init__(status, reason, headers)


class Share:
    """So much of something, of which no caller takes more than is left for others."""

    def __init__(self, size: int, what: str):
        self._size = size
        self._what = what
        self._taken: Counter[str] = Counter()

    def take(self, caller: str, amount: int) -> None:
        """Take some of it, to be given back.

        Raises:
            Refused: 429, the caller has as much as is left for others; 503, nothing is left.
        """
        free = self._size - self._taken.total()
        if amount > free:
            raise Refused(503, f"the server is full: no more {self._what}; try again", 1)
        if self._taken[caller] and self._taken[caller] + amount > free:
            raise Refused(429, f"too much at once: your share of {self._what} is taken", 1)
        self._taken[caller] += amount

    def give(self, caller: str, amount: int) -> None:
        """Give back what was taken."""
        self._taken[caller] -= amount
        if not self._taken[caller]:
            del self._taken[caller]


class Held:
    """What the body of one request takes of a replica's memory."""

    def __init__(self, memory: Share, caller: str):
        self._memory = memory
        self._caller = caller
        self._bytes = 0

    def grow(self, size: int) -> None:
        """Make room for a body of at least `size` bytes in all."""
        more = max(0, size - self._bytes)
        self._memory.take(self._caller, more)
        self._bytes += more

    def release(self) -> None:
        """Give all of it back."""
        self._memory.give(self._caller, self._bytes)
        self._bytes = 0


class Pace:
    """How many requests are at work, and how long each of them keeps a busy server."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()
        self._answers = 0
        self._seconds = 0.0
        self._last = 0.0

    def expected_wait_s(self) -> float:
        """Return how long a request would wait that came now, in seconds."""
        return self._inside.total() * self._seconds

    def caused_wait_s(self, caller: str) -> float:
        """Return how much of that would be a caller's own."""
        return self._inside[caller] * self._seconds

    @contextmanager
    def at_work(self, caller: str) -> Iterator[None]:
        """Count a caller's request, from when its body is here until it is answered."""
        if not self._inside.total():
            self._last = monotonic()
        self._inside[caller] += 1
        try:
            yield
        finally:
            self._inside[caller] -= 1
            if not self._inside[caller]:
                del self._inside[caller]
            now = monotonic()
            self._answers = min(self._answers + 1, _REMEMBERED)
            self._seconds += (now - self._last - self._seconds) / self._answers
            self._last = now


class Doors:
    """The doors of one replica."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._places = Share(limits.places, "places")
        self._memory = Share(limits.held_bytes, "memory for requests")
        self._pace = Pace()

    @contextmanager
    def place(self, caller: str) -> Iterator[Held]:
        """Give a request a place, from its headers to its answer.

        Raises:
            Refused: there is none for this caller, or it would wait for too long.
        """
        self._check_wait(caller)
        self._places.take(caller, 1)
        held = Held(self._memory, caller)
        try:
            yield held
        finally:
            held.release()
            self._places.give(caller, 1)

    def _check_wait(self, caller: str) -> None:
        wait_s, own_s = self._pace.expected_wait_s(), self._pace.caused_wait_s(caller)
        left_s = self.limits.wait_s - wait_s
        if left_s < 0:
            reason = f"the server is busy: an answer would take {wait_s:.0f} s; try again"
            raise Refused(503, reason, wait_s / 2)
        if own_s > left_s:
            reason = f"too much at once: what you asked before takes {own_s:.0f} s more"
            raise Refused(429, reason, own_s / 2)

    @asynccontextmanager
    async def at_work(self, caller: str) -> AsyncIterator[None]:
        """Bound the time of an answer, once the body is here.

        Raises:
            Refused: 503, it took too long.
        """
        try:
            with self._pace.at_work(caller):
                async with asyncio.timeout(self.limits.answer_s):
                    yield
        except TimeoutError as error:
            raise Refused(
                503,
                f"the server is busy: no answer within {self.limits.answer_s:.0f} s; try again",
                self.limits.answer_s / 2,
            ) from error

    async def read_body(self, request: Request, held: Held) -> bytes:
        """Return a request's body; of one that is too large the rest is not read.

        Raises:
            Refused: 413, it is too large; 408, it comes too slowly; 429 or 503, there is no memory
                for it.
            HTTPException: 400, it is empty; 415, it is compressed.
        """
        _check_encoding(request)
        too_large = Refused(413, f"the body is larger than {self.limits.body_bytes:,} bytes")
        expected = _content_length(request)
        if expected is not None and expected > self.limits.body_bytes:
            raise too_large
        held.grow(expected or 0)
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.patience_s) as timeout:
                start = asyncio.get_running_loop().time()
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.limits.body_bytes:
                        raise too_large
                    body += chunk
                    held.grow(len(body))
                    timeout.reschedule(start + self.limits.body_seconds(len(body)))
        except TimeoutError as error:
            raise Refused(
                408,
                f"the body comes too slowly: {len(body):,} bytes so far, "
                f"expected {self.limits.body_rate:,} a second",
            ) from error
        if not body:
            raise HTTPException(400, "the body is empty; expected an image")
        return bytes(body)


def caller_of(request: Request) -> str:
    """Return who asks, as far as places are shared: a key by its name, or an address."""
    exchange: Exchange | None = getattr(request.state, "exchange", None)
    if exchange is not None and exchange.key is not None:
        return f"key {exchange.key}"
    address = request.client.host if request.client else ""
    return request.headers.get(CALLER_HEADER, address)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(
            415,
            f"Content-Encoding is {reprlib.repr(encoding)}: compressed bodies are not read; "
            "send the image file as it is",
            {"Accept-Encoding": "identity"},
        )


def _content_length(request: Request) -> int | None:
    length = request.headers.get("content-length")
    if length is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", length):
        raise HTTPException(400, f"Content-Length is {reprlib.repr(length)}, expected bytes")
    return int(length)
