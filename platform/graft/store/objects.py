"""Payloads: objects that carry their SHA-256 in their name, and how a marker lists them."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ObjectRef(BaseModel):
    """A payload as the marker that commits it lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Key relative to the marker's folder."""
    size: int
    """Bytes."""
    sha256: str


def sha256(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_name(name: str, digest: str) -> str:
    """Return what a payload called `name` is called in the store."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{digest}{dot}{suffix}"
