"""Import: from a source of labelled files to an immutable dataset version.

One pass over the source, in threads: read, hash, decode, shrink what is too large, append to
shards in a temporary folder. The version's name depends on every image, so the payloads are
uploaded after the last one; then the manifest makes the version exist.
"""

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

from graft.cpus import available_cpus
from graft.data.growing import Earlier, NamedSettings, add_images, choose_settings
from graft.data.image import Prepared, prepare
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.index import SUFFIX, Columns
from graft.data.manifest import (
    DatasetDraft,
    EarlierShards,
    Manifest,
    SkippedFile,
    commit_manifest,
    find_manifest,
    folder,
    latest,
    open_dataset,
    point_latest,
)
from graft.data.shards import Place, ShardWriter, pack
from graft.data.source import open_source
from graft.data.version_draft import (
    DraftImage,
    check_trainable,
    draft_version,
    explain_unusable,
)
from graft.errors import DataError, ImageError, ObjectExists, ResourceError
from graft.spec import NAME
from graft.store import ObjectRef, Store, sha256
from graft.store.backend import explained

UPLOADS = 4
"""How many payloads are uploaded at a time."""

Progress = Callable[[str, int, int], None]
"""Called with the step (listing, reading, uploading), how many of its items are done and how many
there are; while that is not known, as many as are done."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Imported:
    """The dataset version of an import."""

    manifest: Manifest
    written: bool
    """False: the version was in the store already."""


def import_dataset(
    store: Store,
    uri: str,
    name: str,
    *,
    add_to: str | None = None,
    labels: str | None = None,
    max_side: int | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int | None = None,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Imported:
    """Import the images at `uri` as a version of dataset `name`, and point `latest` at it.

    Importing the same files with the same settings again finds the version and writes nothing.
    A failed import leaves nothing behind. What adds to a version stores only what that has not.

    Args:
        store: where the version goes.
        uri: what `open_source` takes.
        name: the dataset's name.
        add_to: the version of it that the images are added to, as `open_dataset` takes it; all
            that it has is in the new one, and its settings hold. None: the images are all.
        labels: a table of labels that take the place of the source's own: see `open_source`.
        max_side: longer side, in pixels, above which an image is stored shrunk; default 512.
        val_fraction: part of each class that validates; default 0.2.
        test_fraction: part of each class held out for a final test; default 0.1, 0 for none.
        seed: seeds the choice of both; default 0.
        skip_bad: leave unusable files out, instead of failing.
        threads: how many read and decode; default: one for each CPU.
        progress: called after every image and every upload.

    Raises:
        DataError: unusable files, nothing that can be trained on, or a setting without effect.
        NotFoundError: there is no version `add_to`.
        ResourceError: the memory does not hold an image.
    """
    _check_name(name)
    latest(store, name)  # fails now, before images are read, if the store cannot be reached
    earlier = Earlier() if add_to is None else Earlier.of(open_dataset(store, name, add_to))
    source = open_source(uri, lambda files: progress("listing", files, files), labels)
    named = NamedSettings(max_side, val_fraction, test_fraction, seed)
    settings = choose_settings(named, skip_bad, uri, source.splits, earlier)
    with tempfile.TemporaryDirectory(prefix="graft-import-") as temporary:
        scan = _scan(source, settings.max_side, Path(temporary), threads, progress, earlier)
        unmatched = source.rows_without_image(image.sha256 for image in scan.images)
        skipped = [*source.stray, *scan.unusable, *unmatched]
        if skipped and not skip_bad:
            raise DataError(explain_unusable(uri, skipped, len(scan.images)))
        addition = add_images(earlier, scan.images, scan.places, skipped, settings.made)
        contents, notes = addition.contents, [*source.notes, *addition.notes]
        check_trainable(uri, contents, source.splits)
        draft = draft_version(name, uri, settings, contents, notes, earlier.version)
        if manifest := find_manifest(store, name, draft.version):
            imported = Imported(manifest, written=False)
        else:
            originals = earlier.originals(source, contents, scan.images)
            index = Path(temporary) / f"index{SUFFIX}"
            Columns.of(contents.images).write(index)
            imported = _commit(
                store, draft, index, originals, earlier.shards, scan.shards, progress
            )
    point_latest(store, name, draft.version)
    return imported


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME, name):
        raise DataError(
            f"dataset name '{name}': expected up to 64 of lower-case letters, digits, "
            "'.', '_' and '-', a letter or digit first and last"
        )


@dataclass(frozen=True)
class _Scan:
    """What one pass over a source gives."""

    images: list[DraftImage]
    """The usable files, in the source's order."""
    places: dict[str, Place]
    """Where each digest's image lies in the shards."""
    unusable: list[SkippedFile]
    shards: list[Path]
    """Local files; they hold each distinct image that is new once, as it is to be stored."""


def _scan(
    source: ImageSource,
    max_side: int,
    folder: Path,
    threads: int | None,
    progress: Progress,
    earlier: Earlier,
) -> _Scan:
    """Read every file, decode those that are new, and write what is to be stored to `folder`."""

    def read(file: LabelledFile) -> tuple[DraftImage, Prepared | None] | SkippedFile:
        try:
            data = source.read(file)
            digest = sha256(data)
            file = source.labelled(file, digest)
            if stored := earlier.stored.get(digest):
                width, height = stored.width, stored.height
                return DraftImage(file, digest, len(data), width, height, changed=False), None
            prepared = prepare(data, max_side)
        except ImageError as error:
            return SkippedFile(path=file.path, reason=str(error))
        except MemoryError as error:  # of the machine, not of the file: --skip-bad must not hide it
            raise ResourceError(
                f"{file.path}: not enough memory to decode it; import with fewer --threads"
            ) from error
        width, height, changed = prepared.width, prepared.height, prepared.changed
        return DraftImage(file, digest, len(data), width, height, changed), prepared

    scan = _Scan([], earlier.places, [], [])
    with (
        explained(f"the temporary folder {folder} (TMPDIR moves it)"),
        closing(ShardWriter(folder, first=earlier.shard_count)) as writer,
    ):
        results = _in_order(read, source.files, threads or available_cpus())
        for done, result in enumerate(results, start=1):
            if isinstance(result, SkippedFile):
                scan.unusable.append(result)
            else:
                image, prepared = result
                if prepared and image.sha256 not in scan.places:
                    name = f"{image.sha256}.{prepared.format}"
                    scan.places[image.sha256] = writer.add(name, prepared.data)
                scan.images.append(image)
            progress("reading", done, len(source.files))
    scan.shards.extend(writer.paths)
    return scan


def _in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
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


def _commit(
    store: Store,
    draft: DatasetDraft,
    index: Path,
    originals: Sequence[tuple[str, bytes]],
    earlier: tuple[EarlierShards, ...],
    shards: Sequence[Path],
    progress: Progress,
) -> Imported:
    """Upload the payloads and commit the manifest, or leave nothing behind."""
    version_folder = folder(draft.name, draft.version)
    # In every payload's name, so that a failed import removes no other import's payloads.
    token = uuid.uuid4().hex[:8]
    payloads: list[tuple[str, bytes | Path]] = [
        (f"index-{token}{SUFFIX}", index),
        (f"originals-{token}.tar", pack(originals)),
        *((f"{path.stem}-{token}.tar", path) for path in shards),
    ]

    def upload(payload: tuple[str, bytes | Path]) -> ObjectRef:
        return store.put(version_folder, *payload)

    try:
        refs = []
        for done, ref in enumerate(_in_order(upload, payloads, UPLOADS), start=1):
            refs.append(ref)
            progress("uploading", done, len(payloads))
        manifest = Manifest(
            **dict(draft),
            index=refs[0],
            originals=refs[1],
            earlier=earlier,
            shards=tuple(refs[2:]),
            created=datetime.now(UTC).isoformat(),
        )
        commit_manifest(store, manifest)
    except BaseException as error:
        committed = find_manifest(store, draft.name, draft.version)
        if committed is None or token not in committed.index.name:
            for key, _ in store.scan(f"{version_folder}/"):
                if token in key:
                    store.delete(key)
        if committed and isinstance(error, ObjectExists):  # another import was first
            return Imported(committed, written=False)
        raise
    return Imported(manifest, written=True)
