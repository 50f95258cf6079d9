"""Dataset versions in the store: what they hold, and how they are found and read.

``datasets/<name>/<version>/manifest.json`` makes a version exist. It lists the index
(Parquet, a row per image), the shards (image bytes) and a few original files.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from graft.data.image import LARGEST_MAX_SIDE
from graft.data.shards import ShardReader, unpack
from graft.data.splits import SPLITS, MadeSplits
from graft.errors import NotFoundError, ObjectNotFound, StoreError
from graft.spec import Digest, Id, Name, Section, nearest
from graft.store import (
    Marker,
    ObjectRef,
    Store,
    Tell,
    document_bytes,
    find_document,
    read_document,
    read_text,
    unless_damaged,
)

LATEST = "latest"

_MARKER = re.compile(r"datasets/([^/]+)/([^/]+)/manifest\.json")


class ImportSettings(Section):
    """The settings of an import; all but `skip_bad` are in the version's hash."""

    max_side: int = Field(gt=0, le=LARGEST_MAX_SIDE)
    """Longer side, in pixels, above which an image is stored shrunk."""
    made: MadeSplits | None
    """null: all splits are the source's own."""
    skip_bad: bool
    """Whether unusable files were left out; else they fail the import."""


class SkippedFile(Section):
    """A file of the source that was left out, and why."""

    path: str
    reason: str


class Leakage(Section):
    """The same bytes in several splits."""

    sha256: Digest
    paths: tuple[str, ...]
    splits: tuple[str, ...]


class LabelConflict(Section):
    """The same bytes under several labels."""

    sha256: Digest
    paths: tuple[str, ...]
    labels: tuple[str, ...]


class Spread(Section):
    """How a length is distributed over the images, in pixels."""

    min: int
    median: int
    max: int


class DatasetDraft(Section):
    """A dataset version before its index, shards and originals are stored."""

    name: Name
    version: Id
    """The first 16 digits of `digest`."""
    digest: Digest
    """SHA-256 over source bytes, labels, splits and settings."""
    classes: tuple[str, ...]
    """Names, sorted; an image's label is its class's position here."""
    settings: ImportSettings
    counts: dict[str, dict[str, int]]
    """Images by split and class."""
    images: int
    distinct: dict[str, int] = Field(default_factory=dict)
    """Images by split without copies; empty: imported by a release that did not count them."""
    bytes: int
    """Bytes of all distinct images as stored."""
    width: Spread
    """Widths of the upright source images."""
    height: Spread
    """Likewise their heights."""
    skipped: tuple[SkippedFile, ...]
    leakage: tuple[Leakage, ...]
    conflicts: tuple[LabelConflict, ...]
    notes: tuple[str, ...] = ()
    """What import passed by or put together, for people to read."""
    source: str
    """What was imported, as the user named it."""

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


class Manifest(DatasetDraft, Marker):
    """The marker of a committed dataset version."""

    FORMAT: ClassVar[int] = 2
    """1: it had neither `distinct` nor `notes`."""

    index: ObjectRef
    """Parquet, a row for each `Image`."""
    shards: tuple[ObjectRef, ...]
    originals: ObjectRef
    """Tar: original files of some validation images."""
    created: str
    """Time of the import, ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder that all of it lies in."""
        return folder(self.name, self.version)


@dataclass(frozen=True)
class Image:
    """One image of a dataset version; the fields are the index's columns."""

    sha256: str
    """Digest of the source file's bytes."""
    path: str
    """The file's path in the source."""
    label: int
    """Position of its class in `Manifest.classes`."""
    split: str
    shard: int
    """Position of its shard in `Manifest.shards`."""
    offset: int
    """Bytes from the shard's beginning to the stored image's."""
    size: int
    """Bytes of the stored image."""
    width: int
    """Width of the upright source, in pixels."""
    height: int
    """Likewise its height."""


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
        self.folder = manifest.folder
        self._shards = ShardReader(store, self.folder, manifest.shards)

    def images(self, split: str) -> list[Image]:
        """Return the images of ``train``, ``val`` or ``test`` in the index's order."""
        return self._index[split]

    def read(self, image: Image) -> bytes:
        """Return an image's stored bytes, for `decode`; thread-safe."""
        return self._shards.read(image.shard, image.offset, image.size)

    def originals(self) -> list[tuple[Image, bytes]]:
        """Return some validation images, each with the bytes of its source file."""
        images = {image.sha256: image for image in self.images("val")}
        ref = self.manifest.originals
        try:
            files = unpack(self.store.get_shared(self.folder, ref))
            return [(images[digest], data) for digest, data in files]
        except (tarfile.TarError, KeyError) as error:
            raise self._damaged(ref, error) from error

    @cached_property
    def _index(self) -> dict[str, list[Image]]:
        ref = self.manifest.index
        data = self.store.get_shared(self.folder, ref)
        splits: dict[str, list[Image]] = {split: [] for split in SPLITS}
        try:
            table = pq.read_table(io.BytesIO(data)).cast(INDEX)
            _check_index(table, [shard.size for shard in self.manifest.shards])
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(ref, error) from error
        for row in table.to_pylist():
            splits[row["split"]].append(Image(**row))
        return splits

    def _damaged(self, ref: ObjectRef, error: Exception) -> StoreError:
        return StoreError(f"{self.store.uri}/{self.folder}/{ref.name} is damaged: {error}")


def _check_index(table: pa.Table, shards: Sequence[int]) -> None:
    """Check what an index says of its images, whose shards have these sizes in bytes.

    Raises:
        ValueError: a digest is malformed, or a split, a shard or a place in a shard does not exist.
    """
    if not pc.all(pc.match_substring_regex(table["sha256"], "^[0-9a-f]{64}$")).as_py():
        raise ValueError("an image's SHA-256 is none")
    if not pc.all(pc.is_in(table["split"], pa.array(SPLITS))).as_py():
        raise ValueError(f"a split is none of {', '.join(SPLITS)}")
    shard, offset, size = (table[name].to_numpy() for name in ("shard", "offset", "size"))
    if len(table) and not (shard.min() >= 0 and shard.max() < len(shards)):
        raise ValueError(f"it names a shard other than 0 to {len(shards) - 1}")
    end = np.asarray(shards, np.int64)[shard] - size
    if (offset < 0).any() or (size < 0).any() or (offset > end).any():
        raise ValueError("an image lies beyond its shard")


def folder(name: str, version: str) -> str:
    """Return the store's folder of a dataset version."""
    return f"datasets/{name}/{version}"


def open_dataset(store: Store, name: str, version: str = LATEST) -> DatasetVersion:
    """Open a dataset version by its full name, an unambiguous beginning of it, or `latest`.

    Raises:
        NotFoundError: no such dataset or version; the nearest are named.
    """
    versions = [version for _, version in _scan(store, f"datasets/{name}/")]
    if not versions:
        names = sorted({name for name, _ in _scan(store, "datasets/")})
        raise NotFoundError(
            f"no dataset '{name}' in {store.uri}{nearest(name, names)}"
            + ("" if names else "; it has none yet, `graft data import` makes them")
        )
    if version == LATEST:
        version = latest(store, name) or LATEST
    matches = [full for full in versions if full.startswith(version)]
    if len(matches) != 1:
        count = f"{len(matches)} versions that begin with" if matches else "no version"
        raise NotFoundError(
            f"dataset '{name}' has {count} '{version}'; known: {', '.join(versions)}"
        )
    manifest = read_document(store, _manifest_key(name, matches[0]), Manifest)
    return DatasetVersion(store, manifest)


def list_datasets(store: Store, tell: Tell | None = None) -> list[Manifest]:
    """Return every version's manifest, by name, then oldest first.

    `tell` is told of damaged ones, which are left out then.
    """
    keys = [_manifest_key(*marker) for marker in _scan(store, "datasets/")]
    read = [unless_damaged(partial(read_document, store, key, Manifest), tell) for key in keys]
    manifests = [manifest for manifest in read if manifest]
    return sorted(manifests, key=lambda manifest: (manifest.name, manifest.created))


def latest(store: Store, name: str) -> str | None:
    """Return the version that a dataset's `latest` points at, None where it is not set."""
    try:
        return read_text(store, f"datasets/{name}/{LATEST}")
    except ObjectNotFound:
        return None


def find_manifest(store: Store, name: str, version: str) -> Manifest | None:
    """Return the manifest of a version, None where it is not committed."""
    return find_document(store, _manifest_key(name, version), Manifest)


def commit_manifest(store: Store, manifest: Manifest) -> None:
    """Make the version exist; what the manifest lists must be in the store.

    Raises:
        ObjectExists: the version exists already.
    """
    data = document_bytes(manifest)
    store.create(_manifest_key(manifest.name, manifest.version), data)


def point_latest(store: Store, name: str, version: str) -> None:
    """Point a dataset's `latest` at a version."""
    if latest(store, name) != version:
        store.point(f"datasets/{name}/{LATEST}", version.encode())


def _manifest_key(name: str, version: str) -> str:
    return f"{folder(name, version)}/manifest.json"


def _scan(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of every committed version below `prefix`."""
    for key, _ in store.scan(prefix):
        if match := _MARKER.fullmatch(key):
            yield match[1], match[2]
