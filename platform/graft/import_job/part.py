"""A part that is scanned, a shard that is packed: what one process does. Plain, without Ray."""

from functools import cached_property, lru_cache

import pyarrow.parquet as pq

from graft.data.file_reader import FileReader
from graft.data.growing import StoredSizes
from graft.data.image_source import LabelledFile
from graft.data.manifest import open_dataset
from graft.data.packing import ShardPlan, pack_shard, read_planned, shard_name
from graft.data.scanning import (
    Scanner,
    nothing_stored,
    scanning_threads,
    scratch_folder,
    write_scanned,
)
from graft.errors import RunFailed
from graft.import_job.listing import open_payload, read_files
from graft.import_job.records import STAGED, Begun, PackedShard, Part, find_part
from graft.spec import Section
from graft.store import ObjectRef, Store

_KNOWN_PARTS = 64
"""Markers of parts that a process remembers; a shard has images of a few."""


class PartScanner:
    """Scans parts in one process."""

    def __init__(self, store: Store, begun: Begun, cpus: int):
        self._store, self._begun, self._cpus = store, begun, cpus

    def scan(self, number: int) -> Part:
        """Scan a part, and write what it stages, uncommitted.

        Raises:
            ResourceError: the memory does not hold an image.
        """
        staged = f"{self._begun.folder}/{STAGED}"
        with scratch_folder() as scratch:
            tar, rows = scratch / f"{number:06d}.tar", scratch / f"{number:06d}.arrow"
            scanned = self._scanner.scan(read_files(self._files, number), tar)
            write_scanned(rows, scanned)
            return Part(
                number=number,
                tar=self._store.put(staged, tar.name, tar),
                scanned=self._store.put(staged, rows.name, rows),
                files=len(scanned),
                unusable=sum(row.reason is not None for row in scanned),
            )

    @cached_property
    def _files(self) -> pq.ParquetFile:
        return open_payload(self._store, self._begun.folder, self._begun.files)

    @cached_property
    def _scanner(self) -> Scanner:
        begun, reader = self._begun, FileReader()

        def read(file: LabelledFile) -> bytes:
            return reader.read(file.location, file.size)

        return Scanner(
            read=read,
            max_side=begun.settings.max_side,
            stored_size=nothing_stored
            if begun.add_to is None
            else StoredSizes(open_dataset(self._store, begun.name, begun.add_to)),
            threads=scanning_threads(begun.source, self._cpus),
            with_less_memory="its workers need more (a resource class with more memory)",
        )


class Plan(Section):
    """What has to be packed."""

    shards: ObjectRef
    """Parquet: a row group for each shard, see `graft.data.packing`."""
    first: int
    """Number of the first shard."""
    folder: str
    """The store's folder that they go into: the version's."""


def put_plan(store: Store, begun: Begun, shards: ShardPlan, folder: str) -> Plan:
    """Write what has to be packed, for all processes to read."""
    with scratch_folder() as scratch:
        path = scratch / "shards.parquet"
        shards.write(path)
        ref = store.put(begun.folder, path.name, path)
    return Plan(shards=ref, first=shards.first, folder=folder)


class ShardPacker:
    """Packs shards in one process."""

    def __init__(self, store: Store, begun: Begun, plan: Plan):
        self._store, self._begun, self._plan = store, begun, plan
        self._tar = lru_cache(_KNOWN_PARTS)(self._find_tar)

    def pack(self, number: int) -> PackedShard:
        """Pack a shard into the version's folder, uncommitted.

        Raises:
            ObjectDamaged: what was staged is not what it was.
        """
        plan = self._plan
        images = read_planned(self._shards, number - plan.first)
        with scratch_folder() as scratch:
            path = scratch / "shard.tar"
            pack_shard(images, self._read, path)
            name = shard_name(number, self._begun.token)
            ref = self._store.put(plan.folder, name, path)
        return PackedShard(number=number, shard=ref, images=len(images))

    @cached_property
    def _shards(self) -> pq.ParquetFile:
        return open_payload(self._store, self._begun.folder, self._plan.shards)

    def _read(self, part: int, start: int, length: int) -> bytes:
        return self._store.read_range(self._tar(part), start, length)

    def _find_tar(self, number: int) -> str:
        """Return the key of what a part has staged."""
        part = find_part(self._store, self._begun, number)
        if part is None:
            raise RunFailed(
                f"import {self._begun.id}: part {number} was scanned, and is gone; was the import "
                "discarded?"
            )
        return f"{self._begun.folder}/{STAGED}/{part.tar.name}"
