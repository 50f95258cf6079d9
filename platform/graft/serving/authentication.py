"""Who may ask: ASGI middleware that wants a key, unless a path is open to all."""

import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from graft.serving import keys
from graft.serving.exchange import path_of
from graft.serving.keys import Key, KeyRing

OPEN = re.compile(r"|/|/healthz|/docs|/docs/assets/.*|/openapi\.json")
"""Paths for everybody: what load balancers and probes ask, and the description of the API."""
ADMIN = re.compile(r"/v1/models/[^/]+/stats")
"""Paths that tell how a server is used. All others are for those who ask models."""
SCHEMES = {
    "BearerAuth": {"type": "http", "scheme": "bearer"},
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""The two ways to send a key, as OpenAPI documents them."""


class Authentication:
    """Answers 401 without a valid key, and 403 where the key is not for the path.

    The exchange in the request's state, where there is one, then has the name of the key.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing):
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose key is for its path, and refuse all others."""
        wanted = scope_of(scope) if scope["type"] == "http" else None
        if wanted is None:
            await self._app(scope, receive, send)
            return
        text = _sent(Headers(scope=scope))
        key = self._ring.find(text) if text else None
        if key is not None and (exchange := scope.get("state", {}).get("exchange")):
            exchange.key = key.name
        if key is not None and wanted in key.scopes:
            await self._app(scope, receive, send)
        else:
            await _refusal(text, key, wanted)(scope, receive, send)


def scope_of(scope: Scope) -> keys.Scope | None:
    """Return the scope that the path of a request is for; None: it is for everybody."""
    path = path_of(scope)
    if OPEN.fullmatch(path):
        return None
    return "admin" if ADMIN.fullmatch(path) else "predict"


def _sent(headers: Headers) -> str:
    """Return the key that a request has, empty where it has none."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def _refusal(text: str, key: Key | None, wanted: keys.Scope) -> JSONResponse:
    """Return what RFC 6750 answers, whichever header the key came in."""
    challenge = 'Bearer realm="graft"'
    if key is not None:
        challenge += f', error="insufficient_scope", scope="{wanted}"'
        reason = f"the key '{key.name}' is for {', '.join(key.scopes)}; this path is for {wanted}"
        return JSONResponse({"error": reason}, 403, {"WWW-Authenticate": challenge})
    if text:
        challenge += ', error="invalid_token"'
        reason = "the key is not valid (any more); ask whoever runs this server for another"
    else:
        reason = (
            "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY` "
            "(`graft predict --key KEY`)"
        )
    return JSONResponse({"error": reason}, 401, {"WWW-Authenticate": challenge})
