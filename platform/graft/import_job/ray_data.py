"""Parts and shards of an import on Ray Data: the actors that scan and pack, and commit each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from graft.import_job.part import PartScanner, Plan, ShardPacker
from graft.import_job.records import Begun, find_part, find_shard, record
from graft.parts.ray_data import Block, TryCount, Work, do_parts, row_of
from graft.spec import Import
from graft.store import Store


@dataclass(frozen=True)
class Task:
    """What every actor works with."""

    store: str
    """The store's URI."""
    spec: Import
    begun: Begun
    plan: Plan | None = None
    """What has to be packed; None: parts are scanned."""


class ScanActor:
    """One process that scans parts, one after another."""

    def __init__(self, task: Task, tries: TryCount):
        """Load nothing yet: Ray Data says of what fails here only that the process died."""
        self._task, self._tries = task, tries
        self._store = Store.open(task.store)

    def __call__(self, block: Block) -> Block:
        """Scan a block of one part, and commit it."""
        (number,) = block["part"].tolist()
        begun = self._task.begun
        part = find_part(self._store, begun, number)  # by one that died before it could say so
        if part is None:
            size = begun.part_files
            last = min((number + 1) * size, begun.images)
            self._tries.begin(number, f"files {number * size + 1:,} to {last:,}")
            part = self._scanner.scan(number)
            record(self._store, begun, part)
        return row_of(number, files=part.files)

    @cached_property
    def _scanner(self) -> PartScanner:
        return PartScanner(self._store, self._task.begun, self._task.spec.cpus)


class PackActor:
    """One process that packs shards, one after another."""

    def __init__(self, task: Task, tries: TryCount):
        """Load nothing yet, as `ScanActor`."""
        self._task, self._tries = task, tries
        self._store = Store.open(task.store)

    def __call__(self, block: Block) -> Block:
        """Pack a block of one shard, and commit it."""
        (number,) = block["part"].tolist()
        begun = self._task.begun
        shard = find_shard(self._store, begun, number)
        if shard is None:
            self._tries.begin(number, f"shard {number}")
            shard = self._packer.pack(number)
            record(self._store, begun, shard)
        return row_of(number, images=shard.images)

    @cached_property
    def _packer(self) -> ShardPacker:
        if self._task.plan is None:
            raise ValueError("no plan of shards")
        return ShardPacker(self._store, self._task.begun, self._task.plan)


class RayWorkers:
    """Processes of the connected Ray."""

    def __init__(self, store: Store):
        self._store = store

    def scan(self, begun: Begun, spec: Import, numbers: Sequence[int]) -> Iterator[int]:
        """Scan parts, as `Workers`; errors as those of `do_parts`."""
        task = Task(self._store.uri, spec, begun)
        for part in do_parts(ScanActor, task, numbers, spec.scaling, _work(begun)):
            yield part["files"]

    def pack(self, begun: Begun, spec: Import, plan: Plan, numbers: Sequence[int]) -> Iterator[int]:
        """Pack shards, as `Workers`; errors as those of `do_parts`."""
        task = Task(self._store.uri, spec, begun, plan)
        for shard in do_parts(PackActor, task, numbers, spec.scaling, _work(begun)):
            yield shard["images"]


def _work(begun: Begun) -> Work:
    return Work("import", f"graft jobs resume {begun.id}")
