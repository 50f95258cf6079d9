"""Which images lie in which shards: the markers that make activations exist.

``index/<dataset version>-<split>.json`` makes the activations of a split exist. It lists
shards, its own and those of other versions. ``parts/<sha256>.json`` lists shards that a
request finished before the whole was done, for whoever goes on after it was killed.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from graft.activations.key import Key
from graft.data.manifest import DatasetVersion
from graft.errors import ObjectExists, ObjectNotFound, StoreError
from graft.store import ObjectRef, Store, sha256


class Part(BaseModel):
    """A shard, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: ObjectRef
    """Its name is relative to the key's folder."""
    shape: tuple[int, ...]
    """Of one image's activations."""
    order: tuple[int, ...]
    """How a row lies in memory: its axes, outermost first; (1, 2, 0) is channels_last."""
    images: tuple[str, ...]
    """SHA-256 of the source images, by row."""
    batch_size: int
    """Images in a batch of the trunk that computed it."""
    threads: int
    """Of the processor, where one computed it."""


class Index(BaseModel):
    """A marker: parts of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    dataset: str
    """NAME@VERSION that they were computed for."""
    split: str
    images: int
    """How many of the split's images are covered: all of them, in an index."""
    parts: tuple[Part, ...]


def index_key(key: Key, dataset: DatasetVersion, split: str) -> str:
    """Return where the index of a split lies in the store."""
    return f"{key.folder}/index/{dataset.manifest.version}-{split}.json"


def read_index(store: Store, where: str) -> Index:
    """Return a marker.

    Raises:
        ObjectNotFound: there is none.
    """
    try:
        return Index.model_validate_json(store.read(where).data)
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}/{where} is no index of activations that this release of Graft reads "
            f"({error.errors()[0]['msg']}); {_remove(where)}"
        ) from error


def find_index(store: Store, dataset: DatasetVersion, split: str, key: Key) -> Index | None:
    """Return the committed index of a split, None where there is none.

    Raises:
        StoreError: shards that it lists are gone.
    """
    where = index_key(key, dataset, split)
    try:
        index = read_index(store, where)
    except ObjectNotFound:
        return None
    there = _shards(store, key)
    for part in index.parts:
        if there.get(part.shard.name) != part.shard.size:
            raise StoreError(
                f"{store.uri}/{key.folder}/{part.shard.name} is gone or cut short, but {where} "
                f"lists it; {_remove(where)}"
            )
    return index


def missing(
    store: Store, dataset: DatasetVersion, split: str, key: Key
) -> tuple[list[Part], list[str]]:
    """Return the parts that hold images of a split, whoever committed them, and the images
    that are in none."""
    return covering(store, key, [image.sha256 for image in dataset.images(split)])


def covering(store: Store, key: Key, images: Sequence[str]) -> tuple[list[Part], list[str]]:
    """Return the committed parts that hold some of `images`, and the images that are in none."""
    parts: list[Part] = []
    wanted = dict.fromkeys(images)
    committed = list(_committed(store, key))
    there = _shards(store, key) if committed else {}
    for index in committed:
        for part in index.parts:
            if there.get(part.shard.name) == part.shard.size and not wanted.keys().isdisjoint(
                part.images
            ):
                parts.append(part)
                for image in part.images:
                    wanted.pop(image, None)
    return parts, list(wanted)


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
    data = index.model_dump_json().encode()
    where = f"{key.folder}/parts/{sha256(data)}.json"
    store.create(where, data)
    return where


def commit_index(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[Part]
) -> Index:
    """Make the activations of a split exist; where another writer was first, return its index."""
    images = {image.sha256 for image in dataset.images(split)}
    needed: list[Part] = []
    left = set(images)
    for part in parts:
        if not left.isdisjoint(part.images):
            needed.append(part)
            left.difference_update(part.images)
    if left or not images:
        raise ValueError(f"{len(left)} images of {split} are in none of the parts")
    if len({(part.shape, part.order) for part in needed}) > 1:
        raise StoreError(
            f"{store.uri}/{key.folder} holds activations of several shapes; "
            f"{_remove(key.folder + '/')}"
        )
    there = _shards(store, key)
    if any(there.get(part.shard.name) != part.shard.size for part in needed):
        raise StoreError(
            f"{store.uri}/{key.folder}: shards were removed while others were computed; "
            "run it again"
        )
    index = Index(
        dataset=dataset.manifest.ref, split=split, images=len(images), parts=tuple(needed)
    )
    with contextlib.suppress(ObjectExists):
        store.create(index_key(key, dataset, split), index.model_dump_json().encode())
        return index
    if winner := find_index(store, dataset, split, key):
        return winner
    raise StoreError(f"{store.uri}/{key.folder}: its index was removed while it was committed")


def _committed(store: Store, key: Key) -> Iterator[Index]:
    for folder in ("index", "parts"):
        for name, _ in store.scan(f"{key.folder}/{folder}/"):
            with contextlib.suppress(ObjectNotFound):  # removed meanwhile
                yield read_index(store, name)


def _shards(store: Store, key: Key) -> dict[str, int]:
    """Return name and size of what shards a key's folder has."""
    start = len(key.folder) + 1
    return {name[start:]: size for name, size in store.scan(f"{key.folder}/part-")}


def _remove(where: str) -> str:
    trunk = where.split("/")[1]
    return (
        f"remove these activations with `graft activations rm {trunk[:12]}`: they are computed "
        "again when they are needed"
    )
