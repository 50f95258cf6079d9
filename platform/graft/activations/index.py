"""Which images lie in which shards: the markers that make activations exist.

``index/<dataset version>-<split>.json`` makes the activations of a split exist. It lists
shards, its own and those of other versions. ``parts/<sha256>.json`` notes shards that were
finished before the whole split was, for whoever goes on after their writer was killed.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from graft.activations.key import Key
from graft.data.manifest import DatasetVersion
from graft.errors import ObjectExists, ObjectNotFound, StoreError
from graft.spec import Digest, Id, Ref
from graft.spec.section import Positive
from graft.store import ObjectRef, Store, document_bytes, read_document, sha256


class Part(BaseModel):
    """A shard, and which images' activations it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: ObjectRef
    """Its name is relative to the key's folder."""
    shape: tuple[Positive, ...]
    """Shape of one image's activations."""
    order: tuple[int, ...]
    """How a row lies in memory: its axes, outermost first; (1, 2, 0) is channels_last."""
    images: tuple[Digest, ...]
    """SHA-256 of the source images, by row."""
    batch_size: int
    """Images in a batch of the trunk that computed it."""
    threads: int
    """Threads that computed it, where a processor did."""

    @model_validator(mode="after")
    def _permutes(self) -> Self:
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"order {self.order} is none of the axes of shape {self.shape}")
        return self


class Index(BaseModel):
    """A marker in the store: parts of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Ref
    """NAME@VERSION that the parts were computed for."""
    split: Id
    images: int
    """How many of the split's images are covered: all of them, in an index."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Coverage:
    """Which of some images have activations."""

    parts: tuple[Part, ...]
    """Committed parts, each with one of the images at least."""
    absent: tuple[str, ...]
    """SHA-256 of the images that are in none of the parts, in order."""


def index_key(key: Key, dataset: DatasetVersion, split: str) -> str:
    """Return where the index of a split lies in the store."""
    return f"{key.folder}/index/{dataset.manifest.version}-{split}.json"


def read_index(store: Store, marker: str) -> Index:
    """Return the marker at the store's key `marker`.

    Raises:
        ObjectNotFound: there is none.
        StoreError: it is damaged, or of a later release.
    """
    return read_document(store, marker, Index, advice=_remedy(marker))


def find_index(store: Store, dataset: DatasetVersion, split: str, key: Key) -> Index | None:
    """Return the committed index of a split, None where there is none.

    Raises:
        StoreError: shards that it lists are gone.
    """
    marker = index_key(key, dataset, split)
    try:
        index = read_index(store, marker)
    except ObjectNotFound:
        return None
    sizes = _shard_sizes(store, key)
    for part in index.parts:
        if sizes.get(part.shard.name) != part.shard.size:
            raise StoreError(
                f"{store.uri}/{key.folder}/{part.shard.name} is gone or cut short, but {marker} "
                f"lists it; {_remedy(marker)}"
            )
    return index


def covering(store: Store, key: Key, images: Sequence[str]) -> Coverage:
    """Return the committed parts that hold some of `images`, whoever committed them."""
    parts: list[Part] = []
    absent = dict.fromkeys(images)
    indexes = list(_committed(store, key))
    sizes = _shard_sizes(store, key) if indexes else {}
    for part in (part for index in indexes for part in index.parts):
        whole = sizes.get(part.shard.name) == part.shard.size
        if whole and not absent.keys().isdisjoint(part.images):
            parts.append(part)
            for image in part.images:
                absent.pop(image, None)
    return Coverage(tuple(parts), tuple(absent))


def note_parts(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[Part]
) -> str:
    """Commit parts before the whole split is done; return the marker, which may go later."""
    index = Index(
        dataset=dataset.manifest.ref,
        split=split,
        images=len({image for part in parts for image in part.images}),
        parts=tuple(parts),
    )
    data = document_bytes(index, compact=True)
    marker = f"{key.folder}/parts/{sha256(data)}.json"
    store.create(marker, data)
    return marker


def commit_index(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[Part]
) -> Index:
    """Make the activations of a split exist; where another writer was first, return its index.

    Raises:
        ValueError: an image of the split is in none of the parts.
        StoreError: shards are gone, or of several shapes.
    """
    images = {image.sha256 for image in dataset.images(split)}
    needed: list[Part] = []
    absent = set(images)
    for part in parts:
        if not absent.isdisjoint(part.images):
            needed.append(part)
            absent.difference_update(part.images)
    if absent or not images:
        raise ValueError(f"{len(absent)} images of {split} are in none of the parts")
    if len({(part.shape, part.order) for part in needed}) > 1:
        raise StoreError(
            f"{store.uri}/{key.folder} holds activations of several shapes; "
            f"{_remedy(key.folder + '/')}"
        )
    sizes = _shard_sizes(store, key)
    if any(sizes.get(part.shard.name) != part.shard.size for part in needed):
        raise StoreError(
            f"{store.uri}/{key.folder}: shards were removed while others were computed; "
            "run it again"
        )
    index = Index(
        dataset=dataset.manifest.ref, split=split, images=len(images), parts=tuple(needed)
    )
    with contextlib.suppress(ObjectExists):
        store.create(index_key(key, dataset, split), document_bytes(index, compact=True))
        return index
    if winner := find_index(store, dataset, split, key):
        return winner
    raise StoreError(f"{store.uri}/{key.folder}: its index was removed while it was committed")


def _committed(store: Store, key: Key) -> Iterator[Index]:
    for folder in ("index", "parts"):
        for name, _ in store.scan(f"{key.folder}/{folder}/"):
            with contextlib.suppress(ObjectNotFound):  # removed meanwhile
                yield read_index(store, name)


def _shard_sizes(store: Store, key: Key) -> dict[str, int]:
    """Return the bytes of each shard in a key's folder, by its name."""
    start = len(key.folder) + 1
    return {name[start:]: size for name, size in store.scan(f"{key.folder}/part-")}


def _remedy(place: str) -> str:
    trunk = place.split("/")[1]
    return (
        f"remove these activations with `graft activations rm {trunk[:12]}`: they are computed "
        "again when they are needed"
    )
