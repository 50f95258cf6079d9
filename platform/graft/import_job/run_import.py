"""Running an import that is a job: begun with a list of files, done part by part, committed once.

An import that is resumed goes on with the parts that are left to scan, and the shards that are left
to pack: nothing is done twice. The version is the one that `graft data import` makes of the same
files, whatever the number of processes and the order in which they end.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from graft.data.growing import Earlier, NamedSettings
from graft.data.image_source import LabelledFile
from graft.data.import_draft import Drafted, Imported, Request, Scan, new_token
from graft.data.manifest import find_manifest, full_version, open_dataset, point_latest
from graft.data.scanning import ScannedFile, read_scanned, scratch_folder
from graft.errors import DataError, InputError, NotFoundError, ObjectDamaged, ObjectExists
from graft.import_job.listing import (
    open_payload,
    put_files,
    put_labels,
    put_listing,
    read_files,
    read_source,
)
from graft.import_job.part import Plan, put_plan
from graft.import_job.records import (
    STAGED,
    Begun,
    Finished,
    ImportPace,
    PackedShard,
    Part,
    done,
    find_begun,
    import_folder,
    read_all,
    read_finished,
    read_spec,
    remove_staged,
    write_finished,
    write_pace,
)
from graft.parts.pace import Stopwatch, Throttle
from graft.registry import Fence
from graft.spec import Import, dump_job
from graft.store import Store, document_bytes
from graft.training.attempt_pointer import hold_attempt

TELL_STORE_EVERY_S = 10.0
"""Seconds between records of how far it is, at least."""

Progress = Callable[[ImportPace], object]
"""Is told how far it is."""
Say = Callable[[str], object]
"""Called with a line where another process is, or was, at work on it."""


class Workers(Protocol):
    """What scans parts and packs shards, in this process or on a cluster."""

    def scan(self, begun: Begun, spec: Import, numbers: Sequence[int]) -> Iterator[int]:
        """Scan parts, and commit each; yield how many files each has, in any order."""

    def pack(self, begun: Begun, spec: Import, plan: Plan, numbers: Sequence[int]) -> Iterator[int]:
        """Pack shards, and commit each; yield how many images each has, in any order."""


def create_import(
    store: Store,
    spec: Import,
    import_id: str,
    listed: Callable[[int], object] = lambda files: None,
) -> None:
    """Record an import and the list of its files.

    Of one whose beginning was interrupted the recorded spec holds, not `spec`.

    Raises:
        DataError: there is nothing usable at its source, or a setting has no effect.
        NotFoundError: there is no version that it adds to.
    """
    folder = import_folder(import_id)
    if store.exists(f"{folder}/spec.yaml"):
        spec = read_spec(store, import_id)
    else:
        spec = _resolved(store, spec)
    request = Request.open(
        store,
        spec.source,
        spec.name,
        add_to=spec.add_to,
        labels=spec.labels,
        named=NamedSettings(spec.max_side, spec.val_fraction, spec.test_fraction, spec.seed),
        skip_bad=spec.skip_bad,
        listed=listed,
    )
    with contextlib.suppress(ObjectExists):
        store.create(f"{folder}/spec.yaml", dump_job(spec).encode())
    source = request.source
    with scratch_folder() as scratch:
        files = put_files(store, folder, source.files, spec.part_files, scratch)
    begun = Begun(
        id=import_id,
        name=spec.name,
        source=spec.source,
        settings=request.settings,
        add_to=spec.add_to,
        files=files,
        listing=put_listing(store, folder, source),
        labels=put_labels(store, folder, source),
        images=len(source.files),
        parts=-(-len(source.files) // spec.part_files),
        part_files=spec.part_files,
        token=new_token(),
        created=datetime.now(UTC).isoformat(),
    )
    with contextlib.suppress(ObjectExists):
        store.create(f"{folder}/begun.json", document_bytes(begun))


def _resolved(store: Store, spec: Import) -> Import:
    """Return a spec as it is recorded: with the version, and the places, that its names mean."""
    places = {
        key: os.path.abspath(Path(place).expanduser())
        for key, place in (("source", spec.source), ("labels", spec.labels))
        if place is not None and "://" not in place
    }
    add_to = spec.add_to and full_version(store, spec.name, spec.add_to)
    return spec.model_copy(update={"add_to": add_to, **places})


@dataclass(frozen=True)
class _Attempt:
    """One attempt at an import."""

    store: Store
    spec: Import
    begun: Begun
    workers: Workers
    progress: Progress
    fence: Fence

    def run(self) -> Imported:
        """Do what is left, and commit the version.

        Raises:
            DataError: files that cannot be used, or nothing that can be trained on.
        """
        store, begun, fence = self.store, self.begun, self.fence
        parts = done(store, begun, Part)
        files = sum(part.files for part in read_all(store, begun, Part, sorted(parts)))
        remaining = [number for number in range(begun.parts) if number not in parts]
        with self._telling("reading", files, begun.images) as tell:
            for count in self.workers.scan(begun, self.spec, remaining):
                tell(count)
        request, drafted = self._draft()
        draft, earlier = drafted.draft, request.earlier
        if manifest := find_manifest(store, draft.name, draft.version):
            imported = drafted.is_there(store, begun.token, manifest)
        else:
            shards = self._pack(drafted)
            with scratch_folder() as scratch:
                index = drafted.put_index(store, begun.token, scratch)
            originals = drafted.put_originals(store, begun.token, request)
            fence()
            refs = [shard.shard for shard in shards]
            imported = drafted.commit(store, begun.token, earlier, index, originals, refs)
        fence()
        point_latest(store, draft.name, draft.version)
        return imported

    def _draft(self) -> tuple[Request, Drafted]:
        """Return the version that the scanned parts make."""
        store, begun, earlier = self.store, self.begun, Earlier()
        if begun.add_to is not None:
            earlier = Earlier.of(open_dataset(store, begun.name, begun.add_to))
        source = read_source(store, begun)
        skip_bad = self.spec.skip_bad
        request = Request(begun.name, begun.source, source, begun.settings, skip_bad, earlier)
        return request, Drafted.of(request, Scan.of(source, earlier, self._scanned()))

    def _scanned(self) -> Iterator[tuple[list[LabelledFile], list[ScannedFile]]]:
        """Yield the files of each part, in order, and what they are."""
        store, begun = self.store, self.begun
        files, staged = open_payload(store, begun.folder, begun.files), f"{begun.folder}/{STAGED}"
        for part in read_all(store, begun, Part, range(begun.parts)):
            try:
                rows = read_scanned(store.get(staged, part.scanned))
            except (pa.ArrowException, ValueError) as error:
                raise ObjectDamaged(
                    f"{store.uri}/{staged}/{part.scanned.name} is damaged: {error}"
                ) from error
            yield read_files(files, part.number), rows

    def _pack(self, drafted: Drafted) -> list[PackedShard]:
        store, begun, shards = self.store, self.begun, drafted.scan.shards
        numbers = range(shards.first, shards.first + len(shards))
        packed = done(store, begun, PackedShard)
        images = sum(shard.images for shard in read_all(store, begun, PackedShard, sorted(packed)))
        remaining = [number for number in numbers if number not in packed]
        if remaining:
            plan = put_plan(store, begun, shards, drafted.folder)
            with self._telling("packing", images, shards.images) as tell:
                for count in self.workers.pack(begun, self.spec, plan, remaining):
                    tell(count)
        return read_all(store, begun, PackedShard, numbers)

    @contextlib.contextmanager
    def _telling(
        self, step: Literal["reading", "packing"], files: int, of: int
    ) -> Iterator[Callable[[int], None]]:
        """Yield a function that tells of so many more files that a step is done with."""
        turn, stopwatch = Throttle(TELL_STORE_EVERY_S), Stopwatch(files, of)

        def tell(more: int) -> None:
            nonlocal files
            files += more
            pace = ImportPace(step=step, **stopwatch.pace(files).model_dump())
            self.progress(pace)
            if turn.is_due() or files == of:
                write_pace(self.store, self.begun.id, pace)

        tell(0)
        yield tell


def run_import(
    store: Store,
    import_id: str,
    workers: Workers,
    progress: Progress,
    say: Say = lambda text: None,
    take_over: bool = False,
) -> Finished:
    """Run a recorded import to its end, or resume it; return what came of it.

    Args:
        store: where it is recorded, and where the version goes.
        import_id: its id.
        workers: what scans and packs.
        progress: see `Progress`.
        say: see `Say`.
        take_over: as `hold_attempt` has it.

    Raises:
        DataError: files that cannot be used, or nothing that can be trained on; then nothing of
            it stays but its spec.
        InputError: another process is at work on it.
        RunFailed: a newer attempt has taken over.
    """
    spec = read_spec(store, import_id)
    with hold_attempt(store, import_folder(import_id), say, take_over) as fence:
        finished = read_finished(store, import_id)
        if finished is None:
            begun, started = _read_begun(store, import_id), time.monotonic()
            attempt = _Attempt(store, spec, begun, workers, progress, fence)
            try:
                imported = attempt.run()
            except DataError:
                fence()
                _withdraw(store, begun)
                remove_staged(store, import_id)
                raise
            finished = Finished(
                id=import_id,
                dataset=imported.manifest.ref,
                written=imported.written,
                other_shards=imported.other_shards,
                seconds=time.monotonic() - started,
                created=datetime.now(UTC).isoformat(),
            )
            fence()
            write_finished(store, finished)
        remove_staged(store, import_id)
    return finished


def discard_import(store: Store, import_id: str, say: Say = lambda text: None) -> None:
    """Remove what an import has left that will not go on.

    Raises:
        NotFoundError: there is none of that id.
        InputError: it is at work.
    """
    read_spec(store, import_id)
    with hold_attempt(store, import_folder(import_id), say):
        if read_finished(store, import_id) is None and (begun := find_begun(store, import_id)):
            _withdraw(store, begun)
        remove_staged(store, import_id)


def _read_begun(store: Store, import_id: str) -> Begun:
    begun = find_begun(store, import_id)
    if begun is None:
        raise NotFoundError(f"import '{import_id}' is not begun: its files are not listed")
    return begun


def _withdraw(store: Store, begun: Begun) -> None:
    """Remove what an import has put into the folders of versions, none of which names it."""
    prefix = f"datasets/{begun.name}/"
    keys = [key for key, _ in store.scan(prefix) if begun.token in key]
    for version in {key.removeprefix(prefix).partition("/")[0] for key in keys}:
        manifest = find_manifest(store, begun.name, version)
        if manifest and begun.token in manifest.index.name:
            raise InputError(
                f"import '{begun.id}' has made {manifest.ref}: graft jobs resume {begun.id} ends it"
            )
    for key in keys:
        store.delete(key)
