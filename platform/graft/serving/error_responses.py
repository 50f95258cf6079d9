"""What the HTTP API answers where it refuses or fails: JSON with the reason, whatever happens."""

import logging
import reprlib
import secrets
import traceback
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graft.errors import GraftError, ImageError, ImageTooLarge, StoreError

RETRY_S = "5"
"""Seconds after which to ask again for what cannot be answered now."""

logger = logging.getLogger(__name__)


class Guard:
    """ASGI middleware: answers an unexpected error with 500 in JSON, and HEAD as GET.

    Headers that are too large are refused.

    The error and its traceback are logged under the id that the answer names. HEAD is answered
    here because FastAPI, unlike HTTP, has no HEAD where a route has GET.
    """

    def __init__(self, app: ASGIApp, header_bytes: int):
        self._app = app
        self._header_bytes = header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other scopes are passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            started = True
            await send(_without_body(message) if scope["method"] == "HEAD" else message)

        size = _header_size(scope)
        if size > self._header_bytes:
            reason = f"headers and address have {size:,} bytes, expected {self._header_bytes:,}"
            await JSONResponse({"error": reason}, 431)(scope, receive, observed)
            return
        inner: dict[str, Any] = {**scope}
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        try:
            await self._app(inner, receive, observed)
        except ClientDisconnect:  # nobody is left to be answered
            return
        except Exception as error:
            incident = secrets.token_hex(4)
            # Formatted here: in a replica, Ray Serve's print() garbles what logging would format.
            trace = "".join(traceback.format_exception(error))
            logger.error(f"error {incident} in {scope['method']} {scope['path']!r}\n{trace}")
            if started:  # half an answer cannot become another one
                raise
            reason = f"internal error {incident}: the server's log has it under this id"
            await JSONResponse({"error": reason}, 500)(scope, receive, observed)


def _header_size(scope: Scope) -> int:
    """Return how many bytes a request's headers and address have, about."""
    address = len(scope["path"]) + len(scope["query_string"])
    return address + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _without_body(message: Message) -> Message:
    """Return what HEAD is answered with: GET's status and headers, and no body."""
    if message["type"] != "http.response.body":
        return message
    return {**message, "body": b""}


async def refuse(request: Request, error: HTTPException) -> JSONResponse:
    """Answer what the app itself refuses."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def refuse_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer a query parameter that cannot be."""
    problem = error.errors()[0]
    reason = f"{problem['loc'][-1]} is {reprlib.repr(problem['input'])}: {problem['msg']}"
    return JSONResponse({"error": reason}, 400)


async def refuse_for_now(request: Request, error: GraftError) -> JSONResponse:
    """Answer what may be answered later: a model has no version yet, or the store fails."""
    reason = str(error)
    if isinstance(error, StoreError):  # it may say what is where, which is for the log alone
        logger.warning(f"{request.url.path} cannot be answered now: {error}")
        reason = "the model's weights cannot be read from the store just now; try again"
    return JSONResponse({"error": reason}, 503, {"Retry-After": RETRY_S})


async def refuse_image(request: Request, error: ImageError) -> JSONResponse:
    """Answer an image that cannot be used, with the reason that import gives."""
    status = 413 if isinstance(error, ImageTooLarge) else 415
    return JSONResponse({"error": f"the image cannot be used: {error}"}, status)
