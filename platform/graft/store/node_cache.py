"""The node-local cache: copies of a bucket's payloads, which all processes of a node share.

Whoever has a copy open or mapped holds a shared lock on it (`flock`, which a map keeps), and what
is locked is not removed: so the files in the cache's folder are all the space that it takes.
"""

import contextlib
import fcntl
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from graft.errors import InputError
from graft.store.backend import explained
from graft.store.objects import ObjectRef, digest_of

LEFTOVER_S = 24 * 3600
"""No process writes into a temporary folder for this many seconds: an older one was left behind by
a process that was killed."""


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


def usable_room() -> int:
    """Return the bytes that this node's cache can hold in all; see `cache_room`."""
    folder = cache_folder()
    with explained(f"the node-local cache {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        return cache_room(folder)


def open_copy(ref: ObjectRef, copy: Callable[[BinaryIO], None]) -> BinaryIO | None:
    """Open the cache's file of a payload; None where there is no room for it.

    Any process may have written a file of the cache, so each process verifies it once. Where there
    is none, `copy` fills a file of the payload's size and verifies it; then the file gets its name.
    All others that need the payload wait for that, so that a node fetches it once.
    """
    path = _path_of(ref)
    with explained(f"the node-local cache {path}"):
        if file := _open_verified(path, ref):
            return file
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(f".lock-{path.parent.name}"):
            return _open_verified(path, ref) or _fetch(path, ref, copy)


def _open_verified(path: Path, ref: ObjectRef) -> BinaryIO | None:
    """Open a file of the cache, and mark it as used; None where there is none, or a damaged one."""
    file = _open_shared(path)
    if file is None:
        return None
    with contextlib.ExitStack() as opened:
        opened.enter_context(file)
        if digest_of(file) == ref.sha256:
            # Only the time of use changes: by the time of change `digest_of` knows the file.
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(path, ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
            opened.pop_all()
            return file
    path.unlink(missing_ok=True)
    return None


def _fetch(path: Path, ref: ObjectRef, copy: Callable[[BinaryIO], None]) -> BinaryIO | None:
    """Open a new file of the cache that `copy` has filled; None where there is no room for it."""
    with contextlib.ExitStack() as opened:
        temporary = cache_folder() / f".tmp-{uuid.uuid4().hex}"
        with _locked():
            if not _make_room(ref.size):
                return None
            opened.callback(temporary.unlink, missing_ok=True)
            file = temporary.open("w+b")
            opened.enter_context(file)
            fcntl.flock(file, fcntl.LOCK_SH)  # in use: neither a leftover nor to be evicted
            if ref.size:
                os.posix_fallocate(file.fileno(), 0, ref.size)
        copy(file)
        with _locked():
            os.replace(temporary, path)
        opened.pop_all()
        return file


def adopt(ref: ObjectRef, path: Path) -> None:
    """Move a file of the cache's folder to where `open_copy` finds it; without room, remove it."""
    cached = _path_of(ref)
    with explained(f"the node-local cache {cached}"):
        cached.parent.mkdir(exist_ok=True)
        with _locked():
            if cached.exists() or not _make_room(0):
                path.unlink()
            else:
                os.replace(path, cached)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in the cache.

    A file that is being written is locked, so one that is not was left behind; of folders see
    `LEFTOVER_S`. Earlier releases had theirs beside the payloads.
    """
    with _locked():  # a file that is being made is not locked yet
        _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left. To be called under the cache's lock."""
    for path in _temporaries(folder):
        with contextlib.suppress(OSError):
            if path.is_file():
                _remove_unused(path)
            elif time.time() - path.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(path)


def _make_room(size: int) -> bool:
    """Remove files from the cache, least recently used first, until `size` more bytes fit.

    Returns whether they do: what somebody has open or mapped is not removed, since it would go on
    taking its space. To be called under the cache's lock.
    """
    folder = cache_folder()
    _remove_leftovers(folder)
    files = _cached_files(folder)
    room = _room(folder, files)
    excess = _held(folder, files) + size - room
    for file in sorted(files):
        if excess <= 0 or size > room:
            break
        if _remove_unused(file.path):
            excess -= file.size
    return excess <= 0


def _path_of(ref: ObjectRef) -> Path:
    return cache_folder() / ref.sha256[:2] / ref.sha256


@contextlib.contextmanager
def _locked(name: str = ".lock") -> Iterator[None]:
    """Have no other process do the same meanwhile: add to the cache or remove from it.

    By another `name`: fetch a payload whose digest begins alike. Of an earlier release, another
    process may fetch it as well; whoever is last names its file.
    """
    path = cache_folder() / name
    lock: BinaryIO
    try:
        lock = path.open("ab")
    except PermissionError:  # another user's
        lock = path.open("rb")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open_shared(path: Path) -> BinaryIO | None:
    """Open a file so that nobody evicts it until it is closed and unmapped; None without one."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_nlink:
        return file
    file.close()  # evicted since
    return None


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody has it open or mapped; return whether it is gone."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # in use, or another user's
        return False
    return True


def _room(folder: Path, files: list[_CachedFile]) -> int:
    free = shutil.disk_usage(folder).free
    return min(cache_budget(folder), free + _held(folder, files))


def _held(folder: Path, files: list[_CachedFile]) -> int:
    """Return the bytes of the cache's files, those that are being written too."""
    held = sum(file.size for file in files)
    for temporary in _temporaries(folder):
        below = [Path(at, name) for at, _, names in os.walk(temporary) for name in names]
        for path in (temporary, *below):
            with contextlib.suppress(FileNotFoundError):
                held += path.stat().st_size if path.is_file() else 0
    return held


def _temporaries(folder: Path) -> list[Path]:
    return [*folder.glob(".tmp-*"), *folder.glob("??/.tmp-*")]


def _cached_files(folder: Path) -> list[_CachedFile]:
    files = []
    for path in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            if not path.name.startswith("."):
                status = path.stat()
                files.append(_CachedFile(status.st_atime, status.st_size, path))
    return files
