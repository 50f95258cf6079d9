"""Which images lie in which shards: the markers that make activations exist.

``index/<dataset version>-<split>.json`` makes the activations of a split exist. It lists
shards, its own and those of other versions, and refers to a file of the rows of all of them.
``parts/<sha256>.json`` notes shards that were finished before the whole split was, for whoever goes
on after their writer was killed; such a one lists its images itself, and so does an index of an
earlier release.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from graft.activations.key import Key
from graft.activations.rows import Rows, ShardRows
from graft.data.digests import Digests, first_of_each, from_hexadecimal, hexadecimal
from graft.data.manifest import DatasetVersion
from graft.errors import ObjectDamaged, ObjectExists, ObjectNotFound, StoreError
from graft.spec import Digest, Id, Ref
from graft.spec.section import Positive
from graft.store import ObjectRef, Store, document_bytes, read_document, sha256


class Part(BaseModel):
    """A shard, and how it was computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: ObjectRef
    """Its name is relative to the key's folder."""
    shape: tuple[Positive, ...]
    """Shape of one image's activations."""
    order: tuple[int, ...]
    """How a row lies in memory: its axes, outermost first; (1, 2, 0) is channels_last."""
    images: tuple[Digest, ...] = ()
    """SHA-256 of the source images, by row; empty where `Index.rows` has them."""
    rows: int = Field(default=0, ge=0)
    """How many there are; 0: as many as `images`."""
    batch_size: int
    """Images in a batch of the trunk that computed it."""
    threads: int
    """Threads that computed it, where a processor did."""

    @model_validator(mode="after")
    def _permutes(self) -> Self:
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"order {self.order} is none of the axes of shape {self.shape}")
        return self

    @property
    def row_count(self) -> int:
        """How many rows the shard has."""
        return self.rows or len(self.images)


class Index(BaseModel):
    """A marker in the store: parts of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Ref
    """NAME@VERSION that the parts were computed for."""
    split: Id
    images: int
    """How many of the split's images are covered: all of them, in an index."""
    parts: tuple[Part, ...]
    rows: ObjectRef | None = None
    """An Arrow file, see `Rows`; null: each part lists its images."""


@dataclass(frozen=True)
class PartRows:
    """A shard, and the images of its rows."""

    part: Part
    rows: ShardRows


@dataclass(frozen=True)
class Indexed:
    """Shards, and where each image lies in them."""

    parts: tuple[Part, ...]
    rows: Rows

    @classmethod
    def of(cls, parts: Sequence[PartRows]) -> Self:
        """Put shards together; of an image that several have, the first one counts."""
        return cls(tuple(each.part for each in parts), Rows.of([each.rows for each in parts]))

    def each(self) -> list[PartRows]:
        """Return the shards one by one."""
        by_shard = self.rows.by_shard(len(self.parts))
        return [PartRows(*each) for each in zip(self.parts, by_shard, strict=True)]


@dataclass(frozen=True)
class Coverage:
    """Which of some images have activations."""

    parts: tuple[PartRows, ...]
    """Committed parts, each with one of the images at least."""
    absent: NDArray[np.bool_]
    """(n,): whether an image is in none of the parts."""


def index_key(key: Key, dataset: DatasetVersion, split: str) -> str:
    """Return where the index of a split lies in the store."""
    return f"{key.folder}/index/{dataset.manifest.version}-{split}.json"


def read_index(store: Store, marker: str) -> Index:
    """Return the marker at the store's key `marker`.

    Raises:
        ObjectNotFound: there is none.
        StoreError: it is damaged, or of a later release.
    """
    return read_document(store, marker, Index, advice=remedy(marker))


def open_index(store: Store, marker: str) -> Indexed:
    """Return what the marker at the store's key `marker` lists; errors as those of `read_index`."""
    index = read_index(store, marker)
    if index.rows is None:
        of_each = [ShardRows.all_of(from_hexadecimal(part.images)) for part in index.parts]
        return Indexed(index.parts, Rows.of(of_each))
    folder, ref = "/".join(marker.split("/")[:3]), index.rows
    file = store.open_file(folder, ref)
    with file or io.BytesIO(store.get(folder, ref)) as rows:
        try:
            counts = [part.row_count for part in index.parts]
            return Indexed(index.parts, Rows.read(rows, counts))
        except (pa.ArrowException, ValueError) as error:
            raise ObjectDamaged(
                f"{store.uri}/{folder}/{ref.name} is damaged: {error}; {remedy(marker)}"
            ) from error


def find_index(store: Store, dataset: DatasetVersion, split: str, key: Key) -> Indexed | None:
    """Return the committed index of a split, None where there is none.

    Raises:
        StoreError: shards that it lists are gone.
    """
    marker = index_key(key, dataset, split)
    try:
        indexed = open_index(store, marker)
    except ObjectNotFound:
        return None
    sizes = _shard_sizes(store, key)
    for part in indexed.parts:
        if sizes.get(part.shard.name) != part.shard.size:
            raise StoreError(
                f"{store.uri}/{key.folder}/{part.shard.name} is gone or cut short, but {marker} "
                f"lists it; {remedy(marker)}"
            )
    return indexed


def covering(store: Store, key: Key, images: Digests) -> Coverage:
    """Return the committed parts that hold some of `images`, (n,), whoever committed them."""
    parts: list[PartRows] = []
    absent = np.ones(len(images), np.bool_)
    committed = list(_committed(store, key))
    sizes = _shard_sizes(store, key) if committed else {}
    for indexed in committed:
        if not len(indexed.rows):
            continue
        is_whole = np.array(
            [sizes.get(part.shard.name) == part.shard.size for part in indexed.parts], np.bool_
        )
        places = indexed.rows.find(images)
        part_of_each = indexed.rows.part[places]
        new = absent & (places >= 0) & is_whole[part_of_each]
        if new.any():
            each = indexed.each()
            parts += [each[number] for number in np.unique(part_of_each[new])]
            absent &= ~new
    return Coverage(tuple(parts), absent)


def note_parts(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[PartRows]
) -> str:
    """Commit whole parts before the whole split is done; return the marker, which may go later."""
    index = Index(
        dataset=dataset.manifest.ref,
        split=split,
        images=len(Indexed.of(parts).rows),
        parts=tuple(
            each.part.model_copy(update={"images": _images_of_rows(each.rows), "rows": 0})
            for each in parts
        ),
    )
    data = document_bytes(index, compact=True)
    marker = f"{key.folder}/parts/{sha256(data)}.json"
    store.create(marker, data)
    return marker


def commit_index(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[PartRows]
) -> Indexed:
    """Make the activations of a split exist; where another writer was first, return its index.

    Raises:
        ValueError: an image of the split is in none of the parts.
        StoreError: shards are gone, or of several shapes.
    """
    images = dataset.images(split).digests
    images = images[first_of_each(images)]
    every = Indexed.of(parts).rows
    places = every.find(images)
    if (places < 0).any() or not len(images):
        raise ValueError(f"{(places < 0).sum()} images of {split} are in none of the parts")
    needed = Indexed.of([parts[number] for number in np.unique(every.part[places])])
    if len({(part.shape, part.order) for part in needed.parts}) > 1:
        raise StoreError(
            f"{store.uri}/{key.folder} holds activations of several shapes; "
            f"{remedy(key.folder + '/')}"
        )
    sizes = _shard_sizes(store, key)
    if any(sizes.get(part.shard.name) != part.shard.size for part in needed.parts):
        raise StoreError(
            f"{store.uri}/{key.folder}: shards were removed while others were computed; "
            "run it again"
        )
    index = Index(
        dataset=dataset.manifest.ref,
        split=split,
        images=len(images),
        parts=tuple(_without_images(part) for part in needed.parts),
        rows=_put_rows(store, key, needed.rows),
    )
    marker = index_key(key, dataset, split)
    with contextlib.suppress(ObjectExists):
        store.create(marker, document_bytes(index, compact=True))
    if committed := find_index(store, dataset, split, key):
        return committed
    raise StoreError(f"{store.uri}/{key.folder}: its index was removed while it was committed")


def _images_of_rows(rows: ShardRows) -> tuple[str, ...]:
    return tuple(hexadecimal(rows.digests[np.argsort(rows.row)]))


def _without_images(part: Part) -> Part:
    return part.model_copy(update={"images": (), "rows": part.row_count})


def _put_rows(store: Store, key: Key, rows: Rows) -> ObjectRef:
    with tempfile.TemporaryDirectory(prefix="graft-rows-") as scratch:
        path = Path(scratch, "rows.arrow")
        rows.write(path)
        return store.put(key.folder, path.name, path)


def _committed(store: Store, key: Key) -> Iterator[Indexed]:
    for folder in ("index", "parts"):
        for name, _ in store.scan(f"{key.folder}/{folder}/"):
            with contextlib.suppress(ObjectNotFound):  # removed meanwhile
                yield open_index(store, name)


def _shard_sizes(store: Store, key: Key) -> dict[str, int]:
    """Return the bytes of each shard in a key's folder, by its name."""
    start = len(key.folder) + 1
    return {name[start:]: size for name, size in store.scan(f"{key.folder}/part-")}


def remedy(place: str) -> str:
    """Return what to do about damaged activations, whose key in the store begins so."""
    trunk = place.split("/")[1]
    return (
        f"remove these activations with `graft activations rm {trunk[:12]}`: they are computed "
        "again when they are needed"
    )
