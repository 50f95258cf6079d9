"""The three forms in which a request sends an image: raw body, multipart file, base64 in JSON."""

import binascii
import json
import re
import reprlib
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser
from starlette.exceptions import HTTPException

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
                    "additionalProperties": False,
                },
                "encoding": {FIELD: {"contentType": "image/*"}},
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "byte",
                            "description": "The image file in base64: either alphabet, "
                            "with or without line breaks, or as a data URL.",
                        }
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}
"""The three forms, as OpenAPI documents them."""


_JSON_KINDS = {
    tuple: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
"""What JSON calls the values that `_from_json` reads, by their type in Python."""

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_FROM_WEB = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\v\f"


def image_bytes(content_type: str, body: bytes, json_values: int) -> bytes:
    """Return the image file in a body; unless it is multipart or JSON, the body is the file.

    JSON may have up to `json_values` objects, arrays and members.

    Raises:
        HTTPException: 400, the body is not what `content_type` says, or does not have one image
            and nothing else.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        image = _from_multipart(content_type, body)
    elif kind == "application/json":
        image = _from_json(body, json_values)
    else:
        image = body
    if not image:
        raise HTTPException(400, "the image is empty (0 bytes)")
    return image


def _from_multipart(content_type: str, body: bytes) -> bytes:
    parts: list[File | Field] = []

    def add(part: File | Field) -> None:
        parts.append(part)
        if len(parts) > 1:  # the first one too many ends it, however many follow
            raise _unexpected_parts(parts)

    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")},
            on_field=add,
            on_file=add,
            # The body is in memory already; its parts need no files on disk.
            config={"MAX_MEMORY_FILE_SIZE": float("inf")},
        )
        parser.write(body)
        parser.finalize()
    except HTTPException:
        raise
    except Exception as error:
        # On a damaged body the parser raises FormParserError, AssertionError and perhaps more.
        reason = f": {error}" if isinstance(error, FormParserError) else ""
        raise HTTPException(400, f"the multipart body is broken{reason}") from error
    match parts:
        case [File() as file] if file.field_name == FIELD.encode():
            file.file_object.seek(0)
            return file.file_object.read()
    raise _unexpected_parts(parts)


def _unexpected_parts(parts: list[File | Field]) -> HTTPException:
    names = [
        f"{'file' if isinstance(part, File) else 'text'} "
        f"{reprlib.repr((part.field_name or b'').decode(errors='replace'))}"
        for part in parts
    ]
    return HTTPException(
        400,
        f"expected one multipart file '{FIELD}' and nothing else, "
        f"found {', '.join(names) or 'no file'}; send each image in a request of its own",
    )


def _from_json(body: bytes, most_values: int) -> bytes:
    # Counted before it is parsed: a parser takes 30 times a body's memory for many small values,
    # and gives up on deep ones.
    values = sum(map(body.count, (b"[", b"{", b",", b":")))
    if values > most_values:
        raise HTTPException(
            400,
            f'expected {{"{FIELD}": "<base64>"}}, found JSON of more than {most_values} values',
        )
    try:
        pairs = json.loads(body, object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    except ValueError as error:  # text that is no Unicode, a number of too many digits
        raise HTTPException(400, "the body is not JSON of Unicode text") from error
    if not isinstance(pairs, tuple) or [key for key, _ in pairs] != [FIELD]:
        keys = isinstance(pairs, tuple) and [key for key, _ in pairs]
        shown = reprlib.repr(keys) if keys else _JSON_KINDS[type(pairs)]
        raise HTTPException(400, f'expected {{"{FIELD}": "<base64>"}}, found {shown}')
    text = pairs[0][1]
    if not isinstance(text, str):
        raise HTTPException(400, f"'{FIELD}' is not base64 but {_JSON_KINDS[type(text)]}")
    return _from_base64(text)


def _from_base64(text: str) -> bytes:
    """Decode base64 as programs write it: in lines, in the web-safe alphabet, as a data URL."""
    if text[:5].lower() == "data:":
        header = _DATA_URL.match(text)
        if header is None:
            raise HTTPException(
                400, f"'{FIELD}' is a data URL that is not base64; expected data:...;base64,..."
            )
        text = text[header.end() :]
    # As bytes: split and joined as text, a body of spaces would take 50 times its size.
    data = text.encode(errors="replace")
    digits = data.translate(_FROM_WEB, delete=_WHITESPACE).rstrip(b"=")
    if wrong := _NOT_BASE64.search(digits):
        character = digits[wrong.start() :][:4].decode(errors="replace")[0]
        raise HTTPException(
            400,
            f"'{FIELD}' is not base64: it has {character!r}; "
            "expected letters, digits, + and /, with = only at the end",
        )
    if len(digits) % 4 == 1:  # six bits are no byte
        raise HTTPException(400, f"'{FIELD}' is not whole base64: characters are missing")
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))
