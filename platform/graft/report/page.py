"""Pages that are one file each: HTML with its pictures inside."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

THUMBNAIL = 176
"""Pixels of a thumbnail's longer side."""

_TEMPLATES = Environment(
    loader=PackageLoader("graft.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(template: str, **values: Any) -> bytes:
    """Return the page that a template makes of values, each of them escaped."""
    return _TEMPLATES.get_template(template).render(**values).encode()


def data_uri(data: bytes, kind: str) -> str:
    """Return an image as what an `src` takes instead of an address.

    `kind` is the end of its media type: ``svg+xml``, ``jpeg``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail(image: Image.Image) -> str:
    """Return a small copy of an image as a data URI."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return data_uri(out.getvalue(), "jpeg")
