"""A request and its answer as a server sees them, told to whoever watches: logs and figures."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEFT = 499
"""The status of a request whose client left before it was answered, as nginx has it."""
REASONS = {
    400: "broken",
    401: "no_key",
    403: "scope",
    404: "not_found",
    405: "method",
    408: "slow",
    413: "too_large",
    415: "no_image",
    429: "busy",
    431: "large_headers",
    LEFT: "left",
    503: "overloaded",
}
"""Why a request was not answered with what it asked for, by its status."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
_MODEL = re.compile(r"/v1/models/([^/]+)")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(frozen=True)
class Predicted:
    """What was predicted for an image, and how long its parts took."""

    model: str
    """NAME@VERSION that answered."""
    class_: str
    """The likeliest class."""
    probability: float
    """That class's."""
    decision: str
    """The class that is the answer, or `unknown`."""
    is_unknown: bool
    """Whether the answer is none: a class may be called `unknown`, too."""
    batch: int
    """Images in its forward."""
    decode_s: float
    """From the body to the pixels that the model sees."""
    wait_s: float
    """From there to the beginning of the forward."""
    forward_s: float
    """The forward of the batch."""


@dataclass
class Exchange:
    """A request and its answer, as far as they have got."""

    method: str
    path: str
    request_id: str
    """The client's own, or one that was made: every answer has it as X-Request-Id."""
    trace_id: str | None
    """Of the trace that the client's `traceparent` names."""
    model: str | None = None
    """Name of the served model that it is about."""
    key: str | None = None
    """Name of the key that it came with."""
    status: int = LEFT
    received: int = 0
    """Bytes of its body that were read."""
    sent: int = 0
    """Bytes of the answer's body."""
    total_s: float = 0.0
    predicted: Predicted | None = None

    @property
    def reason(self) -> str | None:
        """Why it was not answered with what it asked for; one of few words."""
        if self.status < 400:
            return None
        return REASONS.get(self.status, "error" if self.status >= 500 else "other")


class Watcher(Protocol):
    """Who is told of every exchange, on the event loop: so it takes no time to speak of."""

    def begun(self, exchange: Exchange) -> None:
        """One has begun."""

    def ended(self, exchange: Exchange) -> None:
        """One has ended."""


class Watched:
    """ASGI middleware that tells watchers of every request but the probes of load balancers.

    The exchange is in the request's state, as `exchange`.
    """

    def __init__(
        self,
        app: ASGIApp,
        watchers: Sequence[Watcher],
        unwatched: frozenset[str],
        models: frozenset[str],
        echoes_ids: bool,
    ):
        """`models` are the names of those that are served."""
        self._app = app
        self._echoes_ids = echoes_ids
        self._watchers = watchers
        self._unwatched = unwatched
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and tell of it when it has ended, however that was."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        exchange = _exchange(scope)
        exchange.model = self._model_of(exchange.path)
        scope.setdefault("state", {})["exchange"] = exchange

        async def receiving() -> Message:
            message = await receive()
            exchange.received += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                if self._echoes_ids:
                    MutableHeaders(scope=message)["X-Request-Id"] = exchange.request_id
            exchange.sent += len(message.get("body", b""))
            await send(message)

        if path_of(scope) in self._unwatched:
            await self._app(scope, receiving, sending)
            return
        for watcher in self._watchers:
            watcher.begun(exchange)
        try:
            await self._app(scope, receiving, sending)
        finally:
            exchange.total_s = perf_counter() - start
            for watcher in self._watchers:
                watcher.ended(exchange)

    def _model_of(self, path: str) -> str | None:
        """Return the served model that a path names; where there is but one, all are about it."""
        if len(self._models) == 1:
            return next(iter(self._models))
        named = _MODEL.match(path)
        return named[1] if named and named[1] in self._models else None


def path_of(scope: Scope) -> str:
    """Return the path of a request, less the prefix under which the app is reached."""
    prefix, path = scope.get("root_path", ""), str(scope["path"])
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :]
    return path


def _exchange(scope: Scope) -> Exchange:
    headers = Headers(scope=scope)
    trace = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else None
    trace_id = trace[1] if trace else None
    return Exchange(
        method=scope["method"],
        path=path_of(scope),
        request_id=request_id or trace_id or secrets.token_hex(16),
        trace_id=trace_id,
    )
