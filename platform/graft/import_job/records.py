"""Imports that are jobs, in the store, and what they stage until their version is committed.

imports/<id>/spec.yaml            what was asked, everything in it resolved
imports/<id>/begun.json           what has to be done; makes the import begun
imports/<id>/files-*.parquet      the files of the source, a row group for each part
imports/<id>/listing-*.json       what else was listed, and labels-*.parquet
imports/<id>/head.json            its current attempt
imports/<id>/progress.json        how far it is, replaced now and then
imports/<id>/part-<number>.json   makes a part scanned, and lists its files
imports/<id>/staged/*             of each part, what is to be stored and what its files are
imports/<id>/shards-*.parquet     which images each shard has
imports/<id>/shard-<number>.json  makes a shard packed, which lies in the version's folder
imports/<id>/import.json          what came of it; makes the import finished

What is finished keeps its spec, its attempts and import.json alone.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from graft.data.manifest import ImportSettings
from graft.errors import ObjectExists
from graft.parts.pace import Pace
from graft.spec import Id, Import, Name, Ref, Section
from graft.store import (
    Marker,
    ObjectRef,
    Store,
    document_bytes,
    find_document,
    read_document,
)
from graft.store.recorded_specs import read_recorded_spec

STAGED = "staged"
"""Folder of what parts stage."""
_KEPT = re.compile(r"spec\.yaml|import\.json|head\.json|lease\.json|attempt-.*")
"""What stays of an import that is finished, or has failed for good."""
_AT_ONCE = 16
"""Objects that are read, or deleted, at once."""


class Begun(Section, Marker):
    """The marker ``begun.json``: what an import has to do."""

    id: Id
    name: Name
    """The dataset's."""
    source: str
    """What is imported."""
    settings: ImportSettings
    add_to: Id | None
    """The version that the images are added to; null: none."""
    files: ObjectRef
    """Parquet: the files of the source, a row group for each part."""
    listing: ObjectRef
    """JSON: what else was listed, see `graft.import_job.listing`."""
    labels: ObjectRef | None
    """Parquet: labels by SHA-256; null: files have theirs."""
    images: int
    """How many files there are."""
    parts: int
    part_files: int
    """Files of each part but the last."""
    token: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """In the name of every payload that it puts into the version's folder."""
    created: str
    """ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder of the import."""
        return import_folder(self.id)


class Part(Section):
    """A part that is scanned: the marker ``part-<number>.json``; its files lie in `STAGED`."""

    number: int
    tar: ObjectRef
    """Each image that is to be stored, as a member."""
    scanned: ObjectRef
    """Arrow: a row for each file, see `graft.data.scanning`."""
    files: int
    unusable: int
    """Files that are no image that can be used."""


class PackedShard(Section):
    """A shard that is packed: the marker ``shard-<number>.json``."""

    number: int
    shard: ObjectRef
    """It lies in the version's folder."""
    images: int


class Finished(Section):
    """The marker ``import.json``: what came of an import."""

    id: Id
    dataset: Ref
    """NAME@VERSION."""
    written: bool
    """False: the version was in the store already."""
    other_shards: int
    """See `graft.data.import_draft.Imported`."""
    seconds: float
    """Of the attempt that finished it."""
    created: str
    """ISO 8601 in UTC."""


class ImportPace(Pace):
    """How far an import is."""

    step: Literal["reading", "packing"]

    def __str__(self) -> str:
        return f"{self.step}: {super().__str__()}"


_Marked = TypeVar("_Marked", Part, PackedShard)


def import_folder(import_id: str) -> str:
    """Return the store's folder of an import."""
    return f"imports/{import_id}"


def read_spec(store: Store, import_id: str) -> Import:
    """Return what an import was asked; NotFoundError: there is none of that id."""
    return read_recorded_spec(store, "import", import_id, Import)


def find_begun(store: Store, import_id: str) -> Begun | None:
    """Return what an import has to do; None: its files are not listed, or it has ended."""
    return find_document(store, f"{import_folder(import_id)}/begun.json", Begun)


def read_finished(store: Store, import_id: str) -> Finished | None:
    """Return what came of an import; None: it is not finished."""
    return find_document(store, f"{import_folder(import_id)}/import.json", Finished)


def write_finished(store: Store, finished: Finished) -> None:
    """Commit what came of an import; where another try has done so, that one counts."""
    _create(store, f"{import_folder(finished.id)}/import.json", finished)


def write_pace(store: Store, import_id: str, pace: ImportPace) -> None:
    """Record how far an import is, and how fast."""
    store.write(f"{import_folder(import_id)}/progress.json", document_bytes(pace))


def read_pace(store: Store, import_id: str) -> ImportPace | None:
    """Return how far an import was when it was last recorded; None: it is not recorded."""
    return find_document(store, f"{import_folder(import_id)}/progress.json", ImportPace)


def find_part(store: Store, begun: Begun, number: int) -> Part | None:
    """Return a part; None: it is not scanned."""
    return find_document(store, _key(begun, Part, number), Part)


def find_shard(store: Store, begun: Begun, number: int) -> PackedShard | None:
    """Return a shard; None: it is not packed."""
    return find_document(store, _key(begun, PackedShard, number), PackedShard)


def record(store: Store, begun: Begun, done: Part | PackedShard) -> None:
    """Commit a part or a shard; where another try has done so meanwhile, that one counts."""
    _create(store, _key(begun, type(done), done.number), done)


def read_all(
    store: Store, begun: Begun, kind: type[_Marked], numbers: Iterable[int]
) -> list[_Marked]:
    """Return committed parts or shards, in the order of these numbers."""
    keys = [_key(begun, kind, number) for number in numbers]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda key: read_document(store, key, kind), keys))


def done(store: Store, begun: Begun, kind: type[Part] | type[PackedShard]) -> set[int]:
    """Return the numbers of the parts, or shards, that are committed."""
    prefix = f"{begun.folder}/{_NAMES[kind]}-"
    numbers = re.compile(re.escape(prefix) + r"(\d{6,9})\.json")
    return {int(match[1]) for key, _ in store.scan(prefix) if (match := numbers.fullmatch(key))}


def remove_staged(store: Store, import_id: str) -> None:
    """Remove all but the records of an import that has ended."""
    folder = f"{import_folder(import_id)}/"
    begun = f"{folder}begun.json"
    keys = [key for key, _ in store.scan(folder) if not _KEPT.fullmatch(key.removeprefix(folder))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(store.delete, (key for key in keys if key != begun)))
    store.delete(begun)  # last: whoever is killed here may remove the rest


_NAMES: dict[type[Part] | type[PackedShard], str] = {Part: "part", PackedShard: "shard"}


def _key(begun: Begun, kind: type[Part] | type[PackedShard], number: int) -> str:
    return f"{begun.folder}/{_NAMES[kind]}-{number:06d}.json"


def _create(store: Store, key: str, document: Section) -> None:
    try:
        store.create(key, document_bytes(document, compact=True))
    except ObjectExists:
        return
