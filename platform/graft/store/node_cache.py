"""The node-local cache: copies of a bucket's payloads, which all processes of a node share."""

import contextlib
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from graft.errors import InputError
from graft.store.objects import ObjectRef

GRACE_S = 60
"""A file used within this many seconds is never removed, even if the cache is over its budget:
a process may be about to open it."""
LEFTOVER_S = 24 * 3600
"""No process writes a temporary file for this many seconds: an older one was left behind by a
process that was killed."""


@dataclass(frozen=True, order=True)
class _CachedFile:
    """A file of the cache; the least recently used sorts first."""

    used: float
    """When it was last used, in seconds since the epoch."""
    size: int
    """Bytes."""
    path: Path


def cache_folder() -> Path:
    """Return the folder of the node-local cache: ``GRAFT_CACHE``, else ``~/.cache/graft``."""
    return Path(os.environ.get("GRAFT_CACHE") or Path.home() / ".cache" / "graft")


def cached_payload(ref: ObjectRef) -> Path:
    """Return where the cache has, or would have, a payload: by its SHA-256."""
    return cache_folder() / ref.sha256[:2] / ref.sha256


def cache_budget(folder: Path) -> int:
    """Return the bytes that the cache may hold: ``GRAFT_CACHE_GB``, else half of its disk."""
    budget = gigabytes("GRAFT_CACHE_GB")
    return shutil.disk_usage(folder).total // 2 if budget is None else budget


def gigabytes(variable: str) -> int | None:
    """Return the bytes that an environment variable sets in gigabytes; None where it is unset.

    Raises:
        InputError: its value is not a number, or is negative.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise InputError(f"{variable} is '{text}'; expected a number of gigabytes, at least 0")
    return int(number * 1e9)


def cache_room(folder: Path) -> int:
    """Return the bytes that the cache can hold in all: its budget, or less on a full disk."""
    return _room(folder, _cached_files(folder))


def make_room(folder: Path, size: int) -> None:
    """Remove files from the cache, least recently used first, until `size` more bytes fit.

    A process that has a removed file open or mapped can go on reading it; the disk gets the
    space back when the last such process closes it. See `GRACE_S` for what is never removed.
    """
    files, now = _cached_files(folder), time.time()
    excess = sum(file.size for file in files) + size - _room(folder, files)
    for file in sorted(files):
        if excess <= 0 or now - file.used < GRACE_S:
            return
        file.path.unlink(missing_ok=True)
        excess -= file.size


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders that killed processes left in the cache, see `LEFTOVER_S`."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(path)


def _room(folder: Path, files: list[_CachedFile]) -> int:
    free = shutil.disk_usage(folder).free
    return min(cache_budget(folder), free + sum(file.size for file in files))


def _cached_files(folder: Path) -> list[_CachedFile]:
    files = []
    for path in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            if not path.name.startswith("."):
                status = path.stat()
                files.append(_CachedFile(status.st_mtime, status.st_size, path))
    return files
