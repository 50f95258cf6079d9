"""Import: from a source of labelled files to an immutable dataset version.

One pass over the source, in threads: read, hash, decode, shrink what is too large,
append to shards in a temporary folder. The last image decides the version's name; then
the payloads are uploaded, and the manifest makes the version exist.
"""

import os
import re
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from graft.backend import explained
from graft.data.draft import (
    Entry,
    check,
    choose_originals,
    describe,
    explain_bad,
    index_images,
    made_splits,
)
from graft.data.image import MAX_SIDE, Prepared, prepare
from graft.data.manifest import (
    LATEST,
    Draft,
    Image,
    Manifest,
    Settings,
    Skipped,
    folder,
    latest,
    read_manifest,
    write_index,
)
from graft.data.shards import Place, ShardWriter, pack
from graft.data.source import Item, Source, open_source
from graft.errors import DataError, ImageError, ObjectExists, ObjectNotFound
from graft.spec import NAME
from graft.store import ObjectRef, Store, sha256

UPLOADS = 4
"""How many payloads are uploaded at a time."""

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Imported:
    """What an import came to."""

    manifest: Manifest
    written: bool
    """False: the version was there already."""


def import_dataset(
    store: Store,
    uri: str,
    name: str,
    *,
    max_side: int = MAX_SIDE,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int | None = None,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Imported:
    """Import the images at `uri` as a version of dataset `name`, and point `latest` at it.

    Importing the same files with the same settings again finds the version and writes
    nothing. A failure leaves nothing behind.

    Args:
        store: where to.
        uri: a directory, an s3:// prefix, or a .csv or .parquet table.
        name: the dataset's name.
        max_side: longer side, in pixels, above which an image is stored shrunk.
        val_fraction: part of each class that validates; default 0.2.
        test_fraction: part of each class held out for a final test; default 0.
        seed: seeds the choice of both; default 0.
        skip_bad: leave out files that are no usable images, instead of failing.
        threads: default: one for each CPU.
        progress: told after every image and every upload.

    Raises:
        DataError: files that are no usable images, nothing that can be trained on,
            or a setting without effect.
    """
    if not re.fullmatch(NAME, name):
        raise DataError(
            f"dataset name '{name}': expected up to 64 of lower-case letters, digits, "
            "'.', '_' and '-', a letter or digit first and last"
        )
    threads = threads or os.cpu_count() or 1
    latest(store, name)  # a store that cannot be reached is found before images are read
    source = open_source(uri)
    made = made_splits(source.splits, val_fraction, test_fraction, seed)
    settings = Settings(max_side=max_side, made=made, skip_bad=skip_bad)
    with tempfile.TemporaryDirectory(prefix="graft-import-") as temporary:
        entries, bad, shards = _read_all(source, max_side, Path(temporary), threads, progress)
        skipped = [*source.stray, *bad]
        if skipped and not skip_bad:
            raise DataError(explain_bad(uri, skipped, len(entries)))
        classes = sorted({entry.item.label for entry in entries})
        images = index_images(entries, classes, made)
        check(uri, classes, images, source.splits)
        draft = describe(name, uri, settings, classes, images, skipped)
        known = _committed(store, draft)
        if known:
            imported = Imported(known, written=False)
        else:
            originals = _read_originals(source, choose_originals(images, entries))
            imported = _publish(store, draft, images, originals, shards, progress)
    if latest(store, name) != draft.version:
        store.point(f"datasets/{name}/{LATEST}", draft.version.encode())
    return imported


def _read_all(
    source: Source, max_side: int, folder: Path, threads: int, progress: Progress
) -> tuple[list[Entry], list[Skipped], list[Path]]:
    """Read and decode every file, and append what is kept of it to shards in `folder`."""

    def read(item: Item) -> tuple[Item, str, int, Prepared] | Skipped:
        try:
            data = source.read(item)
            return item, sha256(data), len(data), prepare(data, max_side)
        except ImageError as error:
            return Skipped(path=item.path, reason=str(error))

    entries: list[Entry] = []
    bad: list[Skipped] = []
    places: dict[str, Place] = {}
    with (
        explained(f"the temporary folder {folder} (TMPDIR moves it)"),
        closing(ShardWriter(folder)) as writer,
    ):
        for done, result in enumerate(_in_order(read, source.items, threads), start=1):
            if isinstance(result, Skipped):
                bad.append(result)
            else:
                item, digest, file_bytes, kept = result
                if digest not in places:
                    places[digest] = writer.add(f"{digest}.{kept.format}", kept.data)
                entries.append(
                    Entry(
                        item,
                        digest,
                        file_bytes,
                        kept.width,
                        kept.height,
                        kept.changed,
                        places[digest],
                    )
                )
            progress("reading", done, len(source.items))
    return entries, bad, writer.paths


def _in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Yield ``work(item)`` in the items' order; only a few results wait in memory."""
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


def _read_originals(source: Source, chosen: Iterable[Entry]) -> list[tuple[str, bytes]]:
    originals = []
    for entry in chosen:
        data = source.read(entry.item)
        if sha256(data) != entry.sha256:
            raise DataError(f"{entry.item.path} was changed while it was imported; import again")
        originals.append((entry.sha256, data))
    return originals


def _publish(
    store: Store,
    draft: Draft,
    images: Sequence[Image],
    originals: Sequence[tuple[str, bytes]],
    shards: Sequence[Path],
    progress: Progress,
) -> Imported:
    """Upload the payloads and create the manifest, or leave nothing behind."""
    where = folder(draft.name, draft.version)
    # Payloads are this import's own, so that removing them harms no other of the same version.
    token = uuid.uuid4().hex[:8]
    payloads: list[tuple[str, bytes | Path]] = [
        (f"index-{token}.parquet", write_index(images)),
        (f"originals-{token}.tar", pack(originals)),
        *((f"{path.stem}-{token}.tar", path) for path in shards),
    ]

    def upload(payload: tuple[str, bytes | Path]) -> ObjectRef:
        return store.put(where, *payload)

    try:
        refs = []
        for done, ref in enumerate(_in_order(upload, payloads, UPLOADS), start=1):
            refs.append(ref)
            progress("uploading", done, len(payloads))
        manifest = Manifest(
            **dict(draft),
            index=refs[0],
            originals=refs[1],
            shards=tuple(refs[2:]),
            created=datetime.now(UTC).isoformat(),
        )
        store.create(f"{where}/manifest.json", manifest.model_dump_json(indent=2).encode())
    except BaseException as error:
        known = _committed(store, draft)
        if known is None or token not in known.index.name:
            for key, _ in store.scan(f"{where}/"):
                if token in key:
                    store.delete(key)
        if known and isinstance(error, ObjectExists):
            return Imported(known, written=False)
        raise
    return Imported(manifest, written=True)


def _committed(store: Store, draft: Draft) -> Manifest | None:
    try:
        return read_manifest(store, draft.name, draft.version)
    except ObjectNotFound:
        return None
