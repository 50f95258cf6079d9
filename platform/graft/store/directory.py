"""A local directory as a store's backend."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from graft.errors import ObjectChanged, ObjectExists, StoreError
from graft.store.backend import (
    LARGEST_DOCUMENT,
    Entry,
    Versioned,
    check_size,
    checked,
    checked_folder,
    explained,
    open_regular,
)

_CHUNK = 1 << 20
TEMPORARY = ".tmp-"
"""How the names begin of what is no object: files that are being written, and locks."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What `link` says where a file system has none; a folder that may not be written says EACCES."""


class Directory:
    """A directory: creates exclusively by a hard link, compares and swaps under a file lock."""

    def __init__(self, root: Path):
        self.root = root
        self.uri = str(root)

    def read(self, key: str, limit: int = LARGEST_DOCUMENT) -> Versioned:
        with self._explained(key), open_regular(self._path(key)) as file:
            check_size(f"{self.uri}/{key}", os.fstat(file.fileno()).st_size, limit)
            data = file.read(limit + 1)  # it may have grown
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._explained(key), open_regular(self._path(key)) as file:
            file.seek(start)
            return file.read(length)

    def write(self, key: str, data: bytes) -> None:
        self.upload(key, data)

    def create(self, key: str, data: bytes) -> None:
        with self._explained(key), self._temporary(key, data) as temporary:
            try:
                os.link(temporary, self._path(key))
            except FileExistsError as error:
                raise ObjectExists(f"{self.uri}/{key} exists already") from error
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Not an exclusive open in its place: readers would meet a half-written marker,
                # and a writer that was killed would leave one for good.
                raise StoreError(
                    f"{self.uri}: its file system has no hard links, by which markers are made "
                    "exclusively; gcsfuse, SMB and FAT have none. Use another directory, or the "
                    "bucket itself as s3://BUCKET/PREFIX"
                ) from error

    def replace(self, key: str, data: bytes, etag: str) -> None:
        path = self._path(key)
        lock_path = path.with_name(f"{TEMPORARY}{path.name}.lock")
        with self._explained(key), lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read(key).etag != etag:
                raise ObjectChanged(f"{self.uri}/{key} was changed by someone else")
            self.write(key, data)

    def upload(self, key: str, content: bytes | Path) -> None:
        with self._explained(key), self._temporary(key, content) as temporary:
            os.replace(temporary, self._path(key))

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._explained(key):
            return path.stat().st_size if path.is_file() else None

    def scan(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        for entry in self._walk(prefix, after):
            yield entry.key, entry.size

    def entries(self, prefix: str) -> Iterator[Entry]:
        yield from self._walk(prefix)

    def temporaries(self) -> Iterator[Entry]:
        yield from self._walk("", temporary=True)

    def clock(self) -> float:
        if not self.root.is_dir():
            return time.time()
        # Not this machine's time: on a network's file system the server's is what files have.
        with self._explained("clock"), self._temporary("clock", b"") as file:
            return file.stat().st_mtime

    def _walk(self, prefix: str, after: str = "", temporary: bool = False) -> list[Entry]:
        """Return the objects, or else the temporary files, whose keys begin so, by key."""
        folder = self.root / checked_folder(self.uri, prefix)
        objects = []
        with self._explained(prefix):
            for parent, _, names in os.walk(folder, onerror=_raise_unless_missing):
                for name in names:
                    path = Path(parent, name)
                    key = path.relative_to(self.root).as_posix()
                    wanted = name.startswith(TEMPORARY) == temporary
                    if wanted and key.startswith(prefix) and key > after:
                        checked(self.uri, key)
                        with contextlib.suppress(FileNotFoundError):
                            status = path.stat()
                            objects.append(Entry(key, status.st_size, status.st_mtime))
        return sorted(objects, key=lambda entry: entry.key)

    def children(self, prefix: str) -> list[str]:
        folder = self.root / checked_folder(self.uri, prefix)
        with self._explained(prefix):
            if not folder.exists():
                return []
            names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        return [checked(self.uri, name) for name in names]

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / checked(self.uri, key)

    @contextlib.contextmanager
    def _temporary(self, key: str, content: bytes | Path) -> Iterator[Path]:
        """Write `content`, flushed to disk, to a file beside `key`'s that no `scan` lists."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, _CHUNK)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _explained(self, key: str) -> contextlib.AbstractContextManager[None]:
        return explained(f"{self.uri}/{key}")


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
