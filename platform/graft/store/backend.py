"""What a kind of storage must do for `Store`; `directory` and `s3` are the two kinds."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from graft.errors import ObjectDamaged, ObjectNotFound, StoreDenied, StoreError, StoreLost

_AWAY = (
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
)
"""What reading and writing gives where a network's file system has lost its server."""

LARGEST_DOCUMENT = 1 << 30
"""A marker, a pointer or a log of more bytes than this is refused unread. The largest ones were
checkpoints of earlier releases, of 0.8 GB."""


@dataclass(frozen=True)
class Versioned:
    """An object's bytes and the tag that `Store.replace` compares."""

    data: bytes
    etag: str


@dataclass(frozen=True)
class Entry:
    """An object as a listing has it."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """When it was written last, in seconds since 1970 by the storage's own clock."""


_PART = r"(?!\.{1,2}(?:/|\Z))[^/\\\0\ud800-\udfff]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")


def is_key(key: str) -> bool:
    """Whether `key` names an object below a store's root, on every kind of storage.

    Its parts, between '/', are neither empty nor '.' nor '..', and have no backslash, no NUL, and
    nothing that UTF-8 cannot encode. On S3 '..' is no harmless name either: clients resolve it
    before they send the request.
    """
    return _KEY.fullmatch(key) is not None


def checked(uri: str, key: str) -> str:
    """Return `key`, or refuse what `is_key` does, wherever it came from: markers are not trusted.

    Raises:
        StoreError: it is no key.
    """
    if not is_key(key):
        raise StoreError(
            f"{uri}: {key!r} is no key of a store; expected names between '/', none of them "
            "empty, '.' or '..', without backslashes"
        )
    return key


def checked_folder(uri: str, prefix: str) -> str:
    """Return the folder that `prefix`, a key's beginning, ends in; '' is the root.

    Raises:
        StoreError: it is no key.
    """
    folder, slash, _ = prefix.rpartition("/")
    return checked(uri, folder) if slash else ""


class Backend(Protocol):
    """A kind of storage; keys are '/'-separated and relative to the root, see `is_key`.

    Every method, and every key that `scan` and `children` list, is checked: `StoreError`. A
    directory's links are followed; they are its owner's.
    """

    uri: str

    def read(self, key: str, limit: int = LARGEST_DOCUMENT) -> Versioned:
        """Return the whole object; raise `ObjectNotFound` where there is none.

        One of more than `limit` bytes is not read: `ObjectDamaged`.
        """

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from offset `start`."""

    def write(self, key: str, data: bytes) -> None:
        """Write the object atomically, over whatever is there."""

    def create(self, key: str, data: bytes) -> None:
        """Write the object atomically if the key is free, else raise `ObjectExists`."""

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Overwrite the object if its etag still is `etag`, else raise `ObjectChanged`."""

    def upload(self, key: str, content: bytes | Path) -> None:
        """Write bytes or a file's content atomically, in parallel parts where that is faster."""

    def local_path(self, key: str) -> Path | None:
        """Return the path of the local file that is the object, None if it is not a local file."""

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, None where there is none."""

    def scan(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        """Yield key and size in bytes of every object whose key starts with `prefix`, by key.

        `after`: a key; those up to it are left out, and cost nothing.
        """

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what `scan` does, with the time at which each object was written last."""

    def temporaries(self) -> Iterator[Entry]:
        """Yield what writers that were killed have left, and no `scan` lists; also locks."""

    def clock(self) -> float:
        """Return the storage's time now, in seconds since 1970, to compare `modified` with.

        This machine's own clock may differ from it by any amount.
        """

    def children(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder `prefix` (ends with '/')."""

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""


def check_size(location: str, size: int, limit: int) -> None:
    """Refuse to read an object of more bytes than it can have.

    Raises:
        ObjectDamaged: it has.
    """
    if size > limit:
        raise ObjectDamaged(
            f"{location} is damaged: it has {size:,} bytes, where {limit:,} are the most"
        )


def open_regular(path: Path) -> BinaryIO:
    """Open a file; of what is no regular file, such as a pipe, nothing is read or waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn the operating system's errors about the file `location` into our one-line errors."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ObjectNotFound(f"{location} does not exist") from error
    except PermissionError as error:
        raise StoreDenied(f"{location}: permission denied; check the directory's owner") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise StoreDenied(f"{location}: its file system is mounted read-only") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{location}: no space left; nothing was committed") from error
        if error.errno in _AWAY:
            raise StoreLost(
                f"{location}: the server of its file system does not answer ({error.strerror}); "
                "try again later"
            ) from error
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise StoreError(
                f"{location}: its file system has no file locks ({error.strerror}); use a local "
                "disk, NFS with its lock service, or a bucket as s3://BUCKET/PREFIX"
            ) from error
        raise StoreError(f"{location}: {error.strerror or error}") from error
