"""Dataset versions in the store: what they hold, and how they are found and read.

``datasets/<name>/<version>/manifest.json`` makes a version exist. It lists the index
(Arrow, a row per image), the shards (image bytes) and a few original files.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from functools import cached_property, partial
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from graft.data.image import LARGEST_MAX_SIDE
from graft.data.index import SUFFIX, Columns, Image, Images, images_by_split, read_columns
from graft.data.read_ahead import BLOCK_BYTES, ReadAhead, stored_digest
from graft.data.shards import ShardReader, StoredShard, unpack
from graft.data.splits import MadeSplits
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
    parent: Id | None = None
    """The version that `source` was added to; null: `source` is all that it holds."""

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


class EarlierShards(Section):
    """Shards that an earlier version of the dataset brought."""

    version: Id
    """That version, in whose folder they lie whether or not it still exists."""
    shards: tuple[ObjectRef, ...]


class Manifest(DatasetDraft, Marker):
    """The marker of a committed dataset version."""

    FORMAT: ClassVar[int] = 3
    """1: it had neither `distinct` nor `notes`. 2: it had neither `parent` nor `earlier`, and the
    index was Parquet."""

    index: ObjectRef
    """An Arrow file, a row for each image; see `graft.data.index`."""
    earlier: tuple[EarlierShards, ...] = ()
    """The shards of the versions that it adds to, the first version's first."""
    shards: tuple[ObjectRef, ...]
    """Those that it brought itself."""
    originals: ObjectRef
    """Tar: original files of some validation images."""
    created: str
    """Time of the import, ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder that all of it lies in, but for earlier shards."""
        return folder(self.name, self.version)

    @property
    def all_shards(self) -> tuple[StoredShard, ...]:
        """The shards of its images, in the order in which the index counts them."""
        mine = EarlierShards(version=self.version, shards=self.shards)
        return tuple(
            StoredShard(folder(self.name, part.version), ref)
            for part in (*self.earlier, mine)
            for ref in part.shards
        )

    @property
    def own_bytes(self) -> int:
        """Bytes that its folder holds of it."""
        return sum(ref.size for ref in (self.index, self.originals, *self.shards))


class DatasetVersion:
    """A committed dataset version, open for reading."""

    def __init__(self, store: Store, manifest: Manifest):
        self.store = store
        self.manifest = manifest
        self.folder = manifest.folder
        self._shards = ShardReader(store, manifest.all_shards)

    def images(self, split: str) -> Images:
        """Return the images of ``train``, ``val`` or ``test`` in the index's order.

        Raises:
            StoreError: the index is damaged.
        """
        return self._images[split]

    def read(self, image: Image) -> bytes:
        """Return an image's stored bytes, for `decode`; thread-safe.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
            StoreError: it cannot be read, or is damaged.
        """
        digest = stored_digest(image, self.manifest.settings.max_side)
        return self._shards.read(image.shard, image.offset, image.size, digest)

    def read_ahead(self, images: Images, block_bytes: int = BLOCK_BYTES) -> ReadAhead:
        """Return what reads images, in their order, before they are asked for; to be closed.

        `block_bytes` is how much of a shard is read at once, where the node has no room for it.
        """
        max_side = self.manifest.settings.max_side
        return ReadAhead(self._shards, images, max_side, block_bytes)

    @property
    def fits_node(self) -> bool:
        """Whether this node can hold all shards, so that each image is at hand.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
        """
        return self._shards.cacheable == len(self._shards)

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
    def columns(self) -> Columns:
        """The index: a row for each image, sorted by split, label and digest.

        Raises:
            StoreError: it is damaged.
        """
        manifest, ref = self.manifest, self.manifest.index
        file = self.store.open_file(self.folder, ref)
        with file or io.BytesIO(self.store.get(self.folder, ref)) as index:
            try:
                return read_columns(
                    index,
                    is_parquet=not ref.name.endswith(SUFFIX),
                    classes=len(manifest.classes),
                    shards=[shard.ref.size for shard in manifest.all_shards],
                )
            except (pa.ArrowException, ValueError) as error:
                raise self._damaged(ref, error) from error

    @cached_property
    def _images(self) -> dict[str, Images]:
        return images_by_split(self.columns)

    def _damaged(self, ref: ObjectRef, error: Exception) -> StoreError:
        return StoreError(f"{self.store.uri}/{self.folder}/{ref.name} is damaged: {error}")


def folder(name: str, version: str) -> str:
    """Return the store's folder of a dataset version."""
    return f"datasets/{name}/{version}"


def open_dataset(store: Store, name: str, version: str = LATEST) -> DatasetVersion:
    """Open a dataset version by its full name, an unambiguous beginning of it, or `latest`.

    Raises:
        NotFoundError: no such dataset or version; the nearest are named.
    """
    key = manifest_key(name, full_version(store, name, version))
    return DatasetVersion(store, read_document(store, key, Manifest))


def full_version(store: Store, name: str, version: str = LATEST) -> str:
    """Return the full name of a version, of which `version` is the beginning, or `latest`.

    Raises:
        NotFoundError: no such dataset or version; the nearest are named.
    """
    versions = version_names(store, name)
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
    return matches[0]


def version_names(store: Store, name: str) -> list[str]:
    """Return the names of a dataset's versions, damaged ones too."""
    return [version for _, version in _scan(store, f"datasets/{name}/")]


def list_datasets(store: Store, tell: Tell | None = None) -> list[Manifest]:
    """Return every version's manifest, by name, then oldest first.

    `tell` is told of damaged ones, which are left out then.
    """
    return _list_below(store, "datasets/", tell)


def list_versions(store: Store, name: str, tell: Tell | None = None) -> list[Manifest]:
    """Return the manifest of every version of a dataset, oldest first; `tell`: see above."""
    return _list_below(store, f"datasets/{name}/", tell)


def _list_below(store: Store, prefix: str, tell: Tell | None) -> list[Manifest]:
    markers = list(_scan(store, prefix))
    read = [unless_damaged(partial(find_manifest, store, *marker), tell) for marker in markers]
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
    return find_document(store, manifest_key(name, version), Manifest)


def commit_manifest(store: Store, manifest: Manifest) -> None:
    """Make the version exist; what the manifest lists must be in the store.

    Raises:
        ObjectExists: the version exists already.
    """
    data = document_bytes(manifest)
    store.create(manifest_key(manifest.name, manifest.version), data)


def point_latest(store: Store, name: str, version: str) -> None:
    """Point a dataset's `latest` at a version."""
    if latest(store, name) != version:
        store.point(f"datasets/{name}/{LATEST}", version.encode())


def manifest_key(name: str, version: str) -> str:
    """Return where a version's marker lies in the store."""
    return f"{folder(name, version)}/manifest.json"


def _scan(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of every committed version below `prefix`."""
    for key, _ in store.scan(prefix):
        if match := _MARKER.fullmatch(key):
            yield match[1], match[2]
