"""What a kind of storage must do, and the plainest kind: a directory."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graft.errors import ObjectChanged, ObjectExists, ObjectNotFound, StoreError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Versioned:
    """An object's bytes and the tag that `Store.replace` compares."""

    data: bytes
    etag: str


class Backend(Protocol):
    """What a kind of storage must do; keys are '/'-separated and relative to the root."""

    uri: str

    def read(self, key: str) -> Versioned:
        """Return the whole object; `ObjectNotFound` where there is none."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from offset `start`."""

    def write(self, key: str, data: bytes) -> None:
        """Write the object atomically, over whatever is there."""

    def create(self, key: str, data: bytes) -> None:
        """Write the object atomically if the key is free, else raise `ObjectExists`."""

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Write over the object read with `etag`; `ObjectChanged` if it is another by now."""

    def upload(self, key: str, content: bytes | Path) -> None:
        """Write bytes or a file's content atomically, in parallel parts where that is faster."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file."""

    def local_path(self, key: str) -> Path | None:
        """Return where the object already lies as a local file, if it does."""

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, None where there is none."""

    def scan(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of every object whose key starts with `prefix`, in key order."""

    def children(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder `prefix` (ends with '/')."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""


class Directory:
    """A directory: exclusive create by hard link, compare and swap under a lock."""

    def __init__(self, root: Path):
        self.root = root
        self.uri = str(root)

    def read(self, key: str) -> Versioned:
        with self._explained(key):
            data = self._path(key).read_bytes()
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._explained(key), self._path(key).open("rb") as file:
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

    def replace(self, key: str, data: bytes, etag: str) -> None:
        path = self._path(key)
        lock = path.with_name(f".tmp-{path.name}.lock")
        with self._explained(key), lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if self.read(key).etag != etag:
                raise ObjectChanged(f"{self.uri}/{key} was changed by someone else")
            self.write(key, data)

    def upload(self, key: str, content: bytes | Path) -> None:
        with self._explained(key), self._temporary(key, content) as temporary:
            os.replace(temporary, self._path(key))

    def download(self, key: str, path: Path) -> None:
        with self._explained(key):
            shutil.copyfile(self._path(key), path)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._explained(key):
            return path.stat().st_size if path.is_file() else None

    def scan(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        with self._explained(prefix):
            for parent, _, names in os.walk(folder, onerror=_raise_unless_missing):
                for name in names:
                    path = Path(parent, name)
                    key = path.relative_to(self.root).as_posix()
                    if key.startswith(prefix) and not name.startswith(".tmp-"):
                        with contextlib.suppress(FileNotFoundError):
                            found.append((key, path.stat().st_size))
        yield from sorted(found)

    def children(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        with self._explained(prefix):
            if not folder.exists():
                return []
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key

    @contextlib.contextmanager
    def _temporary(self, key: str, content: bytes | Path) -> Iterator[Path]:
        """Write `content` beside its destination, flushed to disk, under a name no reader lists."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
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


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn the operating system's errors about the file `where` into ours, in one line each."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ObjectNotFound(f"{where} does not exist") from error
    except PermissionError as error:
        raise StoreError(f"{where}: permission denied; check the directory's owner") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{where}: no space left; nothing was committed") from error
        raise StoreError(f"{where}: {error.strerror or error}") from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
