"""Scanning: files are read, hashed, decoded and shrunk, and what is to be stored is staged.

A source is scanned in parts, each a run of its files, by whatever process has its turn: what a part
gives follows from its files and the settings alone. What is to be stored lies in one tar file a
part, from which shards are packed (`graft.data.packing`) once all parts are scanned.
"""

import io
import tarfile
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from graft.data.arrow_file import write_arrow
from graft.data.image import Prepared, prepare
from graft.data.image_source import LabelledFile
from graft.data.shards import append_member
from graft.errors import ImageError, ResourceError
from graft.store import sha256
from graft.store.backend import explained

_T = TypeVar("_T")
_R = TypeVar("_R")

THREADS_A_CPU = 4
"""Threads that scan what lies in S3: most of them wait."""

SCANNED = pa.schema(
    [
        ("sha256", pa.string()),
        ("file_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("changed", pa.bool_()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("crc32", pa.uint32()),
        ("reason", pa.string()),
    ]
)
"""Of an Arrow file of a part's files; the columns are those of `ScannedFile`."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """What scanning a file gives: an image, or why it is none."""

    sha256: str | None
    """Digest of the file's bytes; None: it could not be read."""
    file_bytes: int = 0
    """Size of the file."""
    width: int = 0
    """Width of the upright image, in pixels."""
    height: int = 0
    """Likewise its height."""
    changed: bool = False
    """See `Prepared.changed`."""
    offset: int | None = None
    """Bytes from the beginning of the part's tar file to what is to be stored; None: it is stored
    already, or is no image."""
    size: int = 0
    """Bytes of what is to be stored."""
    crc32: int = 0
    """Of what is to be stored, by which a damaged tar file is known."""
    reason: str | None = None
    """Why it cannot be used; None: it is an image."""


Read = Callable[[LabelledFile], bytes]
"""Returns a file's bytes; ImageError: it cannot."""
StoredSize = Callable[[str], tuple[int, int] | None]
"""Returns width and height of the stored image of a digest; None: none is stored."""


def nothing_stored(digest: str) -> None:
    """Return that no image is stored yet."""
    return


@dataclass(frozen=True)
class Scanner:
    """Scans parts of a source, in threads."""

    read: Read
    max_side: int
    """Longer side, in pixels, above which an image is shrunk."""
    stored_size: StoredSize
    """Images that are stored already are neither decoded nor staged."""
    threads: int
    with_less_memory: str
    """What to do where the memory does not hold an image."""

    def scan(
        self,
        files: Iterable[LabelledFile],
        tar: Path,
        scanned: Callable[[], object] = lambda: None,
    ) -> list[ScannedFile]:
        """Scan the files of a part, and write what is to be stored to `tar`.

        Args:
            files: those of the part, in the source's order.
            tar: written; of images with the same bytes it has the first.
            scanned: called after each file.

        Raises:
            ResourceError: the memory does not hold an image.
        """
        rows: list[ScannedFile] = []
        staged: dict[str, ScannedFile] = {}
        with tarfile.TarFile(tar, "w", format=tarfile.USTAR_FORMAT) as writer:
            for row, prepared in in_order(self._scan_file, files, self.threads):
                if row.sha256 and prepared:
                    if row.sha256 not in staged:
                        staged[row.sha256] = _stage(writer, row, row.sha256, prepared)
                    row = staged[row.sha256]
                rows.append(row)
                scanned()
        return rows

    def _scan_file(self, file: LabelledFile) -> tuple[ScannedFile, Prepared | None]:
        digest = None
        try:
            data = self.read(file)
            digest = sha256(data)
            if size := self.stored_size(digest):
                return ScannedFile(digest, len(data), *size), None
            prepared = prepare(data, self.max_side)
        except ImageError as error:
            return ScannedFile(digest, reason=str(error)), None
        except MemoryError as error:  # of the machine, not of the file: skip_bad must not hide it
            raise ResourceError(
                f"{file.path}: not enough memory to decode it; {self.with_less_memory}"
            ) from error
        image = ScannedFile(digest, len(data), prepared.width, prepared.height, prepared.changed)
        return image, prepared


def _stage(
    writer: tarfile.TarFile, row: ScannedFile, digest: str, prepared: Prepared
) -> ScannedFile:
    offset = writer.offset + tarfile.BLOCKSIZE
    append_member(writer, f"{digest}.{prepared.format}", prepared.data)
    size, checksum = len(prepared.data), zlib.crc32(prepared.data)
    return replace(row, offset=offset, size=size, crc32=checksum)


def write_scanned(path: Path, rows: Sequence[ScannedFile]) -> None:
    """Write the Arrow file of what a part's files gave."""
    columns = zip(*map(astuple, rows), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCANNED, strict=True)]
    write_arrow(path, pa.RecordBatch.from_arrays(arrays, schema=SCANNED))


def read_scanned(data: bytes) -> list[ScannedFile]:
    """Return what an Arrow file of a part has.

    Raises:
        ValueError, pa.ArrowException: it is none.
    """
    table = pa.ipc.open_file(io.BytesIO(data)).read_all()
    if not table.schema.equals(SCANNED):
        raise ValueError(f"its columns are {', '.join(map(str, table.schema))}")
    return [ScannedFile(**row) for row in table.to_pylist()]


def scanning_threads(uri: str, cpus: int) -> int:
    """Return how many threads scan a source on so many CPUs, where nobody says."""
    return THREADS_A_CPU * cpus if uri.startswith("s3://") else cpus


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder that goes with the block; its disk's errors are explained."""
    with (
        tempfile.TemporaryDirectory(prefix="graft-import-") as scratch,
        explained(f"the temporary folder {scratch} (TMPDIR moves it)"),
    ):
        yield Path(scratch)


def in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Yield ``work(item)`` in the items' order; a few results at most wait in memory.

    `ThreadPoolExecutor.map` would hold all results that are not consumed yet.
    """
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="import")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
