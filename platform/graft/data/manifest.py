"""Dataset versions in the store: what they hold, and how they are found and read.

``datasets/<name>/<version>/manifest.json`` makes a version exist. It lists the index
(Parquet, a row per image), the shards (image bytes) and a few original files.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from graft.data.image import LARGEST_MAX_SIDE
from graft.data.shards import ShardReader, unpack
from graft.data.splits import SPLITS
from graft.errors import NotFoundError, ObjectNotFound, StoreError
from graft.spec import Name, Section, nearest
from graft.store import ObjectRef, Store

LATEST = "latest"

_MARKER = re.compile(r"datasets/([^/]+)/([^/]+)/manifest\.json")


class MadeSplits(Section):
    """How Graft chose splits out of the images that the source gives no other split."""

    val_fraction: float
    """Part of each class that validates."""
    test_fraction: float
    """Part of each class that is held out for a final test."""
    seed: int


class Settings(Section):
    """What an import was told; all but `skip_bad` is in the version's hash."""

    max_side: int = Field(gt=0, le=LARGEST_MAX_SIDE)
    """Longer side, in pixels, above which an image is stored shrunk."""
    made: MadeSplits | None
    """null: the source has its own validation split."""
    skip_bad: bool
    """Whether files that are no usable images were left out, instead of failing the import."""


class Skipped(Section):
    """A file of the source that was left out."""

    path: str
    reason: str


class Leakage(Section):
    """The same bytes in several splits."""

    sha256: str
    paths: tuple[str, ...]
    splits: tuple[str, ...]


class Conflict(Section):
    """The same bytes under several labels."""

    sha256: str
    paths: tuple[str, ...]
    labels: tuple[str, ...]


class Spread(Section):
    """How a length is distributed over the images."""

    min: int
    median: int
    max: int


class Draft(Section):
    """What an import found, before anything is stored."""

    format: Literal[1] = 1
    """Layout of the index and the shards."""
    name: Name
    version: str
    """The beginning of `digest`."""
    digest: str
    """SHA-256 over source bytes, labels, splits and settings."""
    classes: tuple[str, ...]
    """Names, sorted; an image's label is a position in it."""
    settings: Settings
    counts: dict[str, dict[str, int]]
    """Images by split and class."""
    images: int
    bytes: int
    """Of all distinct images as stored."""
    width: Spread
    """Of the upright source images, in pixels."""
    height: Spread
    skipped: tuple[Skipped, ...]
    leakage: tuple[Leakage, ...]
    conflicts: tuple[Conflict, ...]
    source: str
    """What was imported, as the user named it."""

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


class Manifest(Draft):
    """A committed dataset version: all of it but its images."""

    index: ObjectRef
    """Parquet, a row for each `Image`."""
    shards: tuple[ObjectRef, ...]
    originals: ObjectRef
    """Tar: original files of some validation images."""
    created: str
    """ISO 8601 in UTC."""


@dataclass(frozen=True)
class Image:
    """One image of a dataset version; the fields are the index's columns."""

    sha256: str
    """Of the source file's bytes."""
    path: str
    """In the source, relative to it."""
    label: int
    split: str
    shard: int
    offset: int
    """Of the stored bytes in the shard."""
    size: int
    """Of the stored bytes."""
    width: int
    """Of the upright source, in pixels."""
    height: int


INDEX = pa.schema(
    [
        ("sha256", pa.string()),
        ("path", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def write_index(images: Sequence[Image]) -> bytes:
    """Return the index of `images` as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([vars(image) for image in images], INDEX), out)
    return out.getvalue()


class DatasetVersion:
    """A committed dataset version, open for reading."""

    def __init__(self, store: Store, manifest: Manifest):
        self.store = store
        self.manifest = manifest
        self.folder = folder(manifest.name, manifest.version)
        self._shards = ShardReader(store, self.folder, manifest.shards)

    def images(self, split: str) -> list[Image]:
        """Return the images of ``train``, ``val`` or ``test`` in the index's order."""
        return self._index[split]

    def read(self, image: Image) -> bytes:
        """Return an image's stored bytes, for `decode`; any thread may call."""
        return self._shards.read(image.shard, image.offset, image.size)

    def originals(self) -> list[tuple[Image, bytes]]:
        """Return some validation images with their files' original bytes."""
        images = {image.sha256: image for image in self.images("val")}
        members = unpack(self.store.get(self.folder, self.manifest.originals))
        return [(images[digest], data) for digest, data in members]

    @cached_property
    def _index(self) -> dict[str, list[Image]]:
        data = self.store.get(self.folder, self.manifest.index)
        splits: dict[str, list[Image]] = {split: [] for split in SPLITS}
        for row in pq.read_table(io.BytesIO(data)).to_pylist():
            splits[row["split"]].append(Image(**row))
        return splits


def folder(name: str, version: str) -> str:
    """Return the store's folder of a dataset version."""
    return f"datasets/{name}/{version}"


def open_dataset(store: Store, name: str, version: str = LATEST) -> DatasetVersion:
    """Open a dataset version, named in full, by an unambiguous beginning, or `latest`.

    Raises:
        NotFoundError: no such dataset or version; the nearest are named.
    """
    versions = [known for _, known in _scan(store, f"datasets/{name}/")]
    if not versions:
        names = sorted({found for found, _ in _scan(store, "datasets/")})
        raise NotFoundError(
            f"no dataset '{name}' in {store.uri}{nearest(name, names)}"
            + ("" if names else "; it has none yet, `graft data import` makes them")
        )
    if version == LATEST:
        version = latest(store, name) or LATEST
    matching = [known for known in versions if known.startswith(version)]
    if len(matching) != 1:
        found = f"{len(matching)} versions that begin with" if matching else "no version"
        raise NotFoundError(
            f"dataset '{name}' has {found} '{version}'; known: {', '.join(versions)}"
        )
    return DatasetVersion(store, read_manifest(store, name, matching[0]))


def list_datasets(store: Store) -> list[Manifest]:
    """Return every version's manifest, by name, then oldest first."""
    found = [read_manifest(store, name, version) for name, version in _scan(store, "datasets/")]
    return sorted(found, key=lambda manifest: (manifest.name, manifest.created))


def latest(store: Store, name: str) -> str | None:
    """Return the version that a dataset's `latest` points at, if it is set."""
    try:
        return store.read(f"datasets/{name}/{LATEST}").data.decode()
    except ObjectNotFound:
        return None


def read_manifest(store: Store, name: str, version: str) -> Manifest:
    """Return the manifest of a version.

    Raises:
        ObjectNotFound: there is no such version.
    """
    key = f"{folder(name, version)}/manifest.json"
    try:
        return Manifest.model_validate_json(store.read(key).data)
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}/{key} is not a manifest that this release of Graft reads "
            f"({error.error_count()} problems, first: {error.errors()[0]['msg']}); "
            "it is damaged, or a newer release wrote it"
        ) from error


def _scan(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of every committed version below `prefix`."""
    for key, _ in store.scan(prefix):
        if match := _MARKER.fullmatch(key):
            yield match[1], match[2]
