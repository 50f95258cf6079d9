"""The three forms in which a request sends an image: raw body, multipart file, base64 in JSON."""

import base64
import binascii
import json
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, create_form_parser
from starlette.exceptions import HTTPException
from starlette.requests import Request

FIELD = "image"
"""Name of the multipart field, and of the JSON key."""

_BINARY = {"type": "string", "format": "binary"}
OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: _BINARY},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "byte",
                            "description": "The image file, base64.",
                        }
                    },
                }
            },
        },
    }
}
"""The three forms, as OpenAPI documents them."""


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body of at most `limit` bytes; of a larger one the rest is not read.

    Raises:
        HTTPException: 413, the body is too large; 400, it is empty.
    """
    too_large = HTTPException(413, f"the body is larger than {limit:,} bytes")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    if not body:
        raise HTTPException(400, "the body is empty; expected an image")
    return bytes(body)


def image_bytes(content_type: str, body: bytes) -> bytes:
    """Return the image file in a body; unless it is multipart or JSON, the body is the file.

    Raises:
        HTTPException: 400, the body is not what `content_type` says, or has no image.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        image = _from_multipart(content_type, body)
    elif kind == "application/json":
        image = _from_json(body)
    else:
        image = body
    if not image:
        raise HTTPException(400, "the image is empty (0 bytes)")
    return image


def _from_multipart(content_type: str, body: bytes) -> bytes:
    files: list[File] = []
    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")},
            on_field=None,
            on_file=files.append,
            # The body is in memory already; its parts need no files on disk.
            config={"MAX_MEMORY_FILE_SIZE": float("inf")},
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the multipart body is broken: {error}") from error
    for file in files:
        if file.field_name == FIELD.encode():
            file.file_object.seek(0)
            return file.file_object.read()
    names = ", ".join(f"'{(file.field_name or b'').decode(errors='replace')}'" for file in files)
    raise HTTPException(400, f"expected a multipart file '{FIELD}', found {names or 'no file'}")


def _from_json(body: bytes) -> bytes:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or set(document) != {FIELD}:
        content = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise HTTPException(400, f'expected {{"{FIELD}": "<base64>"}}, found {content}')
    try:
        return base64.b64decode(document[FIELD], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise HTTPException(400, f"'{FIELD}' is not base64: {error}") from error
