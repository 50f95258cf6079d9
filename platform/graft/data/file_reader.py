"""Reading files that others wrote, on this machine and in S3: whole, or a part of one."""

import io
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

import pyarrow as pa

from graft.data.locations import ParquetRow, TarMember, parse_location
from graft.data.parquet_rows import RowReader
from graft.errors import (
    DataError,
    ImageError,
    ObjectDamaged,
    ObjectNotFound,
    ObjectUnreadable,
)
from graft.store import SourceBucket, bucket_and_key

MAX_BYTES = 512 << 20
"""A larger file is refused unread: no image that may be decoded needs as many bytes."""

OPEN_PARQUET = 4
"""Parquet files that are kept open for the next row: threads read from two where one ends."""

_WINDOW = 1 << 20
"""Bytes of an S3 object that are asked for at once, where it is read from its beginning on."""

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""Kinds of file that are not regular: to open one may wait for ever, or act on a device."""


class FileReader:
    """Reads files of this machine and of S3, and parts of them; thread-safe."""

    def __init__(self, buckets: dict[str, SourceBucket] | None = None):
        """`buckets`: those that are there already, by name."""
        self._buckets = {} if buckets is None else buckets
        self._parquet: OrderedDict[str, RowReader] = OrderedDict()
        self._lock = Lock()

    def read(self, location: str, size: int | None = None) -> bytes:
        """Return an image's bytes.

        Args:
            location: a local path, an s3:// URI, or a part of one: `graft.data.locations`.
            size: bytes of an S3 object as it was listed; None: not listed, or a part of a file.

        Raises:
            ImageError: the file does not exist, cannot be read or is too large.
        """
        with _explained():
            part = parse_location(location)
            if isinstance(part, TarMember):
                return self._member(part)
            if isinstance(part, ParquetRow):
                return _checked(self._rows(part.file).read(part.row))
            if not location.startswith("s3://"):
                return _read_regular(location)
            name, key = bucket_and_key(location)
            bucket = self.bucket(name)
            _check_size((bucket.size(key) if size is None else size) or 0)
            return bucket.read(key, MAX_BYTES).data

    def read_source(self, uri: str) -> bytes:
        """Return the bytes of a table or a list that a user names.

        Raises:
            DataError: it does not exist, cannot be read or is too large.
        """
        try:
            return self.read(uri if uri.startswith("s3://") else str(Path(uri).expanduser()))
        except ImageError as error:
            raise DataError(f"source '{uri}': {error}") from error

    def open(self, location: str) -> BinaryIO:
        """Open a file to be read from its beginning on, with gaps, however large it is.

        Raises:
            ImageError: the file does not exist or cannot be read.
        """
        with _explained():
            if location.startswith("s3://"):
                return cast(BinaryIO, io.BufferedReader(self._object(location), _WINDOW))
            _check_regular(os.stat(location))
            return open(location, "rb")

    def open_arrow(self, location: str) -> pa.NativeFile:
        """Open a file for pyarrow.

        Raises:
            ImageError: the file does not exist or cannot be read.
        """
        with _explained():
            if location.startswith("s3://"):
                return pa.PythonFile(self._object(location), mode="r")
            _check_regular(os.stat(location))
            return pa.OSFile(location)

    def bucket(self, name: str) -> SourceBucket:
        """Return a bucket; to open one costs more than to read a file."""
        if name not in self._buckets:
            self._buckets[name] = SourceBucket(name)
        return self._buckets[name]

    def _object(self, uri: str) -> "_S3Object":
        name, key = bucket_and_key(uri)
        bucket = self.bucket(name)
        size = bucket.size(key) if key else None
        if size is None:
            raise ImageError("does not exist")
        return _S3Object(bucket, key, size)

    def _member(self, member: TarMember) -> bytes:
        _check_size(member.size)
        if not member.size:
            return b""
        if member.file.startswith("s3://"):
            name, key = bucket_and_key(member.file)
            data = self.bucket(name).read_range(key, member.offset, member.size)
        else:
            _check_regular(os.stat(member.file))
            with open(member.file, "rb") as tar:
                tar.seek(member.offset)
                data = tar.read(member.size)
        if len(data) != member.size:
            raise ImageError("the file that holds it was cut off since it was listed")
        return data

    def _rows(self, location: str) -> RowReader:
        with self._lock:
            rows = self._parquet.pop(location, None)
            if rows is None:
                rows = RowReader(self.open_arrow(location))
            self._parquet[location] = rows
            if len(self._parquet) > OPEN_PARQUET:
                self._parquet.popitem(last=False)
        return rows


class _S3Object(io.RawIOBase):
    """An object of a bucket as a file that is read range by range."""

    def __init__(self, bucket: SourceBucket, key: str, size: int):
        self._bucket, self._key, self._size = bucket, key, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._bucket.read_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what reading a file raises into the reason why it is no image."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except ObjectNotFound as error:
        raise ImageError("does not exist") from error
    except ObjectDamaged as error:  # it has grown since it was listed
        raise ImageError(_too_large()) from error
    except ObjectUnreadable as error:
        raise ImageError(f"cannot be read: {error}") from error


def _read_regular(location: str) -> bytes:
    """Return a file's bytes; what is no regular file is not opened."""
    status = os.stat(location)
    _check_regular(status)
    _check_size(status.st_size)
    with open(location, "rb") as opened:
        return _checked(opened.read(MAX_BYTES + 1))  # it may have grown


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        sort = _SPECIAL.get(stat.S_IFMT(status.st_mode), "something else")
        raise ImageError(f"{sort}, not a regular file")


def _checked(data: bytes) -> bytes:
    _check_size(len(data))
    return data


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(_too_large())


def _too_large() -> str:
    return f"more than {MAX_BYTES >> 20} MB"
