"""Import: from a source of labelled files to an immutable dataset version, on one machine.

The files are scanned part by part, which stages what is to be stored in a temporary folder. The
version's name depends on every image, so shards are packed and uploaded after the last one; then
the manifest makes the version exist.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from graft.cpus import available_cpus
from graft.data.growing import NamedSettings
from graft.data.image_source import LabelledFile
from graft.data.import_draft import Drafted, Imported, Request, Scan, new_token
from graft.data.manifest import find_manifest, point_latest
from graft.data.packing import pack_shard, shard_name
from graft.data.scan_processes import THREADS, WITH_LESS_MEMORY, Parent, scan_in_processes
from graft.data.scanning import ScannedFile, Scanner, in_order, scanning_threads, scratch_folder
from graft.store import ObjectRef, Store

PART_FILES = 512
"""Files of a part."""
PARTS_A_PROCESS = 4
"""With fewer, other processes would be started for longer than they save."""
UPLOADS = 4
"""How many payloads are packed and uploaded at a time."""

Progress = Callable[[str, int, int], None]
"""Called with the step (listing, reading, uploading), how many of its items are done and how many
there are; while that is not known, as many as are done."""


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
        threads: how many read and decode; default: one for each CPU, or four where they read S3.
        progress: called after every image and every upload.

    Raises:
        DataError: unusable files, nothing that can be trained on, or a setting without effect.
        NotFoundError: there is no version `add_to`.
        ResourceError: the memory does not hold an image.
    """
    request = Request.open(
        store,
        uri,
        name,
        add_to=add_to,
        labels=labels,
        named=NamedSettings(max_side, val_fraction, test_fraction, seed),
        skip_bad=skip_bad,
        listed=lambda files: progress("listing", files, files),
    )
    with scratch_folder() as staged:
        threads = threads or scanning_threads(uri, available_cpus())
        parts = _scan_parts(store, request, staged, threads, progress)
        drafted = Drafted.of(request, Scan.of(request.source, request.earlier, parts))
        if manifest := find_manifest(store, name, drafted.draft.version):
            imported = drafted.was_there(manifest)
        else:
            imported = _store(store, request, drafted, staged, progress)
    point_latest(store, name, drafted.draft.version)
    return imported


def _scan_parts(
    store: Store, request: Request, staged: Path, threads: int, progress: Progress
) -> Iterator[tuple[Sequence[LabelledFile], list[ScannedFile]]]:
    """Scan a source part by part, in its order; yield the files of each, and what they are."""
    files = request.source.files
    starts = range(0, len(files), PART_FILES)
    parts = [
        (files[start : start + PART_FILES], _tar(staged, number))
        for number, start in enumerate(starts)
    ]
    done = 0

    def scanned(more: int = 1) -> None:
        nonlocal done
        done += more
        progress("reading", done, len(files))

    processes = -(-threads // THREADS)
    if processes == 1 or len(parts) < PARTS_A_PROCESS * processes:
        scanner = Scanner(
            request.source.read,
            request.settings.max_side,
            request.earlier.stored_size,
            threads,
            WITH_LESS_MEMORY,
        )
        for part, tar in parts:
            yield part, scanner.scan(part, tar, scanned)
        return
    dataset = request.earlier.dataset
    parent = Parent(store.uri, request.name, dataset.manifest.version) if dataset else None
    all_rows = scan_in_processes(parts, threads, request.settings.max_side, parent)
    for (part, _), rows in zip(parts, all_rows, strict=True):
        scanned(len(rows))
        yield part, rows


def _store(
    store: Store, request: Request, drafted: Drafted, staged: Path, progress: Progress
) -> Imported:
    """Pack and upload the payloads and commit the version, or leave nothing behind."""
    token = new_token()
    shards = drafted.scan.shards

    def put_shard(position: int) -> ObjectRef:
        path = staged / f"shard-{position}.tar"
        pack_shard(shards.shard(position), partial(_read, staged), path)
        ref = store.put(drafted.folder, shard_name(shards.first + position, token), path)
        path.unlink()
        return ref

    payloads: list[Callable[[], ObjectRef]] = [
        partial(drafted.put_index, store, token, staged),
        partial(drafted.put_originals, store, token, request),
        *(partial(put_shard, position) for position in range(len(shards))),
    ]
    try:
        refs = []
        for done, ref in enumerate(in_order(lambda put: put(), payloads, UPLOADS), start=1):
            refs.append(ref)
            progress("uploading", done, len(payloads))
        return drafted.commit(store, token, request.earlier, refs[0], refs[1], refs[2:])
    except BaseException:
        committed = find_manifest(store, request.name, drafted.draft.version)
        if committed is None or token not in committed.index.name:
            drafted.withdraw(store, token)
        raise


def _read(staged: Path, part: int, start: int, length: int) -> bytes:
    with _tar(staged, part).open("rb") as tar:
        tar.seek(start)
        return tar.read(length)


def _tar(staged: Path, part: int) -> Path:
    return staged / f"part-{part}.tar"
