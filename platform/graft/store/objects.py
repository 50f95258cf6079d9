"""Payloads: objects that carry their SHA-256 in their name, and how a marker lists them."""

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from graft.spec import Digest
from graft.store.backend import is_key


def _file_name(name: str) -> str:
    if "/" in name or not is_key(name):
        raise ValueError(f"{name!r} is no file's name")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""Name of a file within the folder that it belongs in."""


class ObjectRef(BaseModel):
    """A payload as the marker that commits it lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FileName
    """Key relative to the marker's folder."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: Digest


def sha256(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


_digests: dict[tuple[int, ...], str] = {}


def digest_of(file: BinaryIO) -> str:
    """Hex SHA-256 of an open file, computed once a process for as long as the file stays as it is.

    That is enough to trust it: whoever wrote the file, this process has read it whole. To hash it
    for each use would cost as much as the use itself.
    """
    status = os.fstat(file.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity not in _digests:
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # has readinto
        _digests[identity] = digest.hexdigest()
        file.seek(0)
    return _digests[identity]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PAYLOAD = re.compile(r"[^/]*-([0-9a-f]{64})(\.[^/]*)?")


def payload_name(name: str, digest: str, token: str = "") -> str:
    """Return what a payload called `name` is called in the store.

    With a `token`, it is another name than all other payloads' of these bytes.
    """
    stem, dot, suffix = name.partition(".")
    return "-".join(filter(None, (stem, token, digest))) + f"{dot}{suffix}"


def payload_digest(key: str) -> str | None:
    """Return the SHA-256 that a payload's key has; None: it is no payload's."""
    match = _PAYLOAD.fullmatch(key.rpartition("/")[2])
    return match[1] if match else None


def is_payload(key: str) -> bool:
    """Whether a key is a payload's, which exists for what refers to it alone."""
    return payload_digest(key) is not None
