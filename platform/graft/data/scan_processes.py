"""Scanning on all cores of a machine: several processes, where the threads of one do not fill them.

Reading, hashing, decoding, shrinking and encoding run beside one another in threads. What Python
does between them does not: 0.3 of the 0.8 ms that a JPEG of 500 x 375 takes from a disk, and most
of what a client of S3 does. On two cores, which MinIO had to share, two processes of four threads
each read 460 such images a second, and one process of eight threads 415.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from graft.data.file_reader import FileReader
from graft.data.growing import StoredSizes
from graft.data.image_source import LabelledFile
from graft.data.manifest import open_dataset
from graft.data.scanning import ScannedFile, Scanner, StoredSize, nothing_stored
from graft.errors import ResourceError
from graft.store import Store

THREADS = 4
"""Threads of one process, at most."""
WITH_LESS_MEMORY = "import with fewer --threads"

Part = tuple[Sequence[LabelledFile], Path]
"""The files of a part, and where its tar file is written."""


@dataclass(frozen=True)
class Parent:
    """The version that is added to, as another process opens it."""

    store: str
    name: str
    version: str


def scan_in_processes(
    parts: Iterable[Part], threads: int, max_side: int, parent: Parent | None
) -> Iterator[list[ScannedFile]]:
    """Scan parts, in their order; `threads`: of all processes together.

    Raises:
        ResourceError: the memory does not hold an image, or a process has died.
    """
    processes = -(-threads // THREADS)
    waiting: deque[Future[list[ScannedFile]]] = deque()
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),  # this process has threads, such as a bar's
        _set_up,
        (max_side, -(-threads // processes), parent),
    )
    try:
        for files, tar in parts:
            waiting.append(pool.submit(_scan, files, tar))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a process that reads images has died, perhaps for want of memory; {WITH_LESS_MEMORY}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_scanners: list[Scanner] = []
"""The one of this process, once it is set up."""


def _set_up(max_side: int, threads: int, parent: Parent | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    Thread(target=_end_with_parent, daemon=True).start()
    reader = FileReader()
    stored: StoredSize = nothing_stored
    if parent is not None:
        stored = StoredSizes(open_dataset(Store.open(parent.store), parent.name, parent.version))
    _scanners.append(
        Scanner(
            lambda file: reader.read(file.location, file.size),
            max_side,
            stored,
            threads,
            WITH_LESS_MEMORY,
        )
    )


def _scan(files: Sequence[LabelledFile], tar: Path) -> list[ScannedFile]:
    return _scanners[0].scan(files, tar)


def _end_with_parent() -> None:
    """End this process with the one that started it, which may be killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
