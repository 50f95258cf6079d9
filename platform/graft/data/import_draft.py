"""An import before it is stored: what is read, how, and the version that follows from it.

The same functions make a version of the parts of a source, whoever has scanned them:
`graft.data.importing` on one machine, `graft.import_job` on a cluster.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Self

from graft.data.growing import Earlier, NamedSettings, add_images, choose_settings
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.index import SUFFIX, Columns
from graft.data.manifest import (
    DatasetDraft,
    ImportSettings,
    Manifest,
    SkippedFile,
    commit_manifest,
    find_manifest,
    folder,
    latest,
    open_dataset,
)
from graft.data.packing import ShardPlan, StagedImage
from graft.data.scanning import ScannedFile
from graft.data.shards import Place, pack
from graft.data.source import open_source
from graft.data.version_draft import (
    Contents,
    DraftImage,
    check_trainable,
    draft_version,
    explain_unusable,
)
from graft.errors import DataError, ImageError, ObjectExists
from graft.spec import NAME
from graft.store import ObjectRef, Store


@dataclass(frozen=True)
class Imported:
    """The dataset version of an import."""

    manifest: Manifest
    written: bool
    """False: the version was in the store already."""
    other_shards: int = 0
    """How many shards of such a version are known to have other bytes than this import would have
    written: the same images in another order, added one after another, or shrunk by another build
    of Pillow."""


@dataclass(frozen=True)
class Request:
    """An import before an image is read: what of, by which settings, and added to what."""

    name: str
    """The dataset's."""
    uri: str
    """What is imported, as the user named it."""
    source: ImageSource
    settings: ImportSettings
    skip_bad: bool
    """Whether unusable files are left out; else they end it, whatever the earlier version did."""
    earlier: Earlier

    @classmethod
    def open(
        cls,
        store: Store,
        uri: str,
        name: str,
        *,
        add_to: str | None,
        labels: str | None,
        named: NamedSettings,
        skip_bad: bool,
        listed: Callable[[int], object] = lambda files: None,
    ) -> Self:
        """List what is to be imported.

        Args: as `import_dataset`; `listed` is told now and then how many files were listed.

        Raises:
            DataError: there is nothing usable at `uri`, or a setting has no effect.
            NotFoundError: there is no version `add_to`.
        """
        check_name(name)
        latest(store, name)  # fails now, before images are read, if the store cannot be reached
        earlier = Earlier() if add_to is None else Earlier.of(open_dataset(store, name, add_to))
        source = open_source(uri, listed, labels)
        settings = choose_settings(named, skip_bad, uri, source.splits, earlier)
        return cls(name, uri, source, settings, skip_bad, earlier)


@dataclass(frozen=True)
class Scan:
    """What all parts of a source give."""

    images: list[DraftImage]
    """The usable files, in the source's order."""
    unusable: list[SkippedFile]
    places: dict[str, Place]
    """Where each digest's image lies in the shards, or will lie."""
    shards: ShardPlan
    """Each distinct image that is new once: as it comes first in the source."""

    @classmethod
    def of(
        cls,
        source: ImageSource,
        earlier: Earlier,
        parts: Iterable[tuple[Sequence[LabelledFile], Sequence[ScannedFile]]],
    ) -> Self:
        """Put the parts of a source together; they come in its order."""
        places, shards = earlier.places, ShardPlan(earlier.shard_count)
        images: list[DraftImage] = []
        unusable: list[SkippedFile] = []
        for number, (files, rows) in enumerate(parts):
            for file, row in zip(files, rows, strict=True):
                try:
                    image = _draft_image(source, file, row)
                except ImageError as error:
                    unusable.append(SkippedFile(path=file.path, reason=str(error)))
                    continue
                images.append(image)
                if row.offset is not None and image.sha256 not in places:
                    staged = StagedImage(number, row.offset, row.size, row.crc32)
                    places[image.sha256] = shards.add(staged)
        return cls(images, unusable, places, shards)


def _draft_image(source: ImageSource, file: LabelledFile, row: ScannedFile) -> DraftImage:
    """Return a scanned file as an image with its label; ImageError: it cannot be used."""
    if row.sha256 is not None:
        file = source.labelled(file, row.sha256)
    if row.sha256 is None or row.reason is not None:
        raise ImageError(row.reason or "")
    return DraftImage(file, row.sha256, row.file_bytes, row.width, row.height, row.changed)


@dataclass(frozen=True)
class Drafted:
    """A version of which nothing is stored yet."""

    draft: DatasetDraft
    contents: Contents
    scan: Scan

    @classmethod
    def of(cls, request: Request, scan: Scan) -> Self:
        """Return the version that a scanned source makes.

        Raises:
            DataError: files that cannot be used, or nothing that can be trained on.
        """
        uri, source, earlier = request.uri, request.source, request.earlier
        unmatched = source.rows_without_image(image.sha256 for image in scan.images)
        skipped = [*source.stray, *scan.unusable, *unmatched]
        if skipped and not request.skip_bad:
            raise DataError(explain_unusable(uri, skipped, len(scan.images)))
        settings = request.settings
        addition = add_images(earlier, scan.images, scan.places, skipped, settings.made)
        contents, notes = addition.contents, [*source.notes, *addition.notes]
        check_trainable(uri, contents, source.splits)
        draft = draft_version(request.name, uri, settings, contents, notes, earlier.version)
        return cls(draft, contents, scan)

    @property
    def folder(self) -> str:
        """The store's folder of the version."""
        return folder(self.draft.name, self.draft.version)

    def put_index(self, store: Store, token: str, scratch: Path) -> ObjectRef:
        """Write the index into the store, by way of a file in the folder `scratch`."""
        path = scratch / f"index{SUFFIX}"
        Columns.of(self.contents.images).write(path)
        return store.put(self.folder, f"index-{token}{SUFFIX}", path)

    def put_originals(self, store: Store, token: str, request: Request) -> ObjectRef:
        """Write the original files of some validation images into the store.

        Raises:
            DataError: a file is no longer what it was when it was scanned.
        """
        originals = request.earlier.originals(request.source, self.contents, self.scan.images)
        return store.put(self.folder, f"originals-{token}.tar", pack(originals))

    def commit(
        self,
        store: Store,
        token: str,
        earlier: Earlier,
        index: ObjectRef,
        originals: ObjectRef,
        shards: Iterable[ObjectRef],
    ) -> Imported:
        """Make the version exist; where another import was first, remove what this one has put.

        `token` is in the name of each of its payloads, so that no other import's are removed.
        """
        manifest = Manifest(
            **dict(self.draft),
            index=index,
            originals=originals,
            earlier=earlier.shards,
            shards=tuple(shards),
            created=datetime.now(UTC).isoformat(),
        )
        try:
            commit_manifest(store, manifest)
        except ObjectExists:
            if committed := find_manifest(store, manifest.name, manifest.version):
                return self.is_there(store, token, committed)
            raise
        return Imported(manifest, written=True)

    def is_there(self, store: Store, token: str, committed: Manifest) -> Imported:
        """Return what is in the store already, without what this import has put beside it."""
        if token in committed.index.name:  # before it could say so
            return Imported(committed, written=True)
        self.withdraw(store, token)
        return self.was_there(committed)

    def was_there(self, committed: Manifest) -> Imported:
        """Return the version that another import has made of the same images."""
        sizes = zip_longest(self.scan.shards.sizes, (ref.size for ref in committed.shards))
        other = sum(mine != theirs for mine, theirs in sizes)
        return Imported(committed, written=False, other_shards=other)

    def withdraw(self, store: Store, token: str) -> None:
        """Remove what an import has put into the version's folder."""
        for key, _ in list(store.scan(f"{self.folder}/")):
            if token in key:
                store.delete(key)


def new_token() -> str:
    """Return what is in the names of all payloads of one import, and of no other's."""
    return secrets.token_hex(8)


def check_name(name: str) -> None:
    """Refuse what cannot be a dataset's name.

    Raises:
        DataError: it cannot.
    """
    if not re.fullmatch(NAME, name):
        raise DataError(
            f"dataset name '{name}': expected up to 64 of lower-case letters, digits, "
            "'.', '_' and '-', a letter or digit first and last"
        )
