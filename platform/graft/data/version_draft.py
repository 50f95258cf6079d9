"""The draft of a dataset version: its index, its hash and all that its manifest says.

Pure functions of the source's files as they were read; nothing here reads or writes.
"""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from graft.data.copies import find_label_conflicts, find_leakage, images_by_digest, is_copied
from graft.data.digests import first_of_each, from_hexadecimal, numbered
from graft.data.image_source import LabelledFile
from graft.data.index import Image
from graft.data.manifest import DatasetDraft, ImportSettings, SkippedFile, Spread
from graft.data.shards import Place
from graft.data.split_folders import LAYOUT
from graft.data.splits import SPLITS
from graft.errors import DataError

SHOWN = 20
"""How many names an error lists."""


@dataclass(frozen=True, slots=True)
class DraftImage:
    """A usable file of the source after it was read, without its bytes."""

    file: LabelledFile
    sha256: str
    """Digest of the file's bytes."""
    file_bytes: int
    """Size of the file."""
    width: int
    """Width of the upright image, in pixels."""
    height: int
    """Likewise its height."""
    changed: bool
    """See `Prepared.changed`."""


def explain_unusable(uri: str, unusable: Sequence[SkippedFile], usable: int) -> str:
    """Return the error of an import with unusable files; `usable`: how many others there are."""
    lines = [f"{uri}: {len(unusable)} of {len(unusable) + usable} files cannot be used"]
    lines += [f"  {file.path}: {file.reason}" for file in unusable[:SHOWN]]
    if len(unusable) > SHOWN:
        more = len(unusable) - SHOWN
        lines.append(f"  and {more} more; after --skip-bad, the manifest lists all")
    return "\n".join([*lines, "repair or remove them, or leave them out with --skip-bad"])


@dataclass(frozen=True)
class Contents:
    """What a dataset version holds."""

    classes: list[str]
    """Their names, in the order of their labels."""
    images: list[Image]
    """The index: sorted by split, label and digest."""
    skipped: Sequence[SkippedFile]
    """The files of the source that are left out."""

    def has(self, split: str) -> bool:
        """Whether a split has images."""
        return any(image.split == split for image in self.images)


def index_images(
    draft_images: Sequence[DraftImage],
    places: Mapping[str, Place],
    skipped: Sequence[SkippedFile],
    made_splits: Mapping[str, str],
) -> Contents:
    """Give each image its label and split.

    Args:
        draft_images: all usable files, in any order.
        places: where each digest's image lies in the shards.
        skipped: all other files.
        made_splits: the splits of files that the source has in train, by digest; the others stay.
    """
    classes = sorted({image.file.label for image in draft_images})
    labels = {name: label for label, name in enumerate(classes)}
    images = []
    for image in draft_images:
        split, place = image.file.split, places[image.sha256]
        images.append(
            Image(
                sha256=image.sha256,
                path=image.file.path,
                label=labels[image.file.label],
                split=made_splits.get(image.sha256, split) if split == "train" else split,
                shard=place.shard,
                offset=place.offset,
                size=place.size,
                width=image.width,
                height=image.height,
            )
        )
    images.sort(key=index_order)
    return Contents(classes, images, skipped)


def index_order(image: Image) -> tuple[int, int, str, str]:
    """Return what an index is sorted by."""
    return SPLITS.index(image.split), image.label, image.sha256, image.path


def check_trainable(uri: str, contents: Contents, source_splits: set[str]) -> None:
    """Refuse what cannot be trained on; `source_splits`: those that the source has."""
    classes = contents.classes
    if len(classes) < 2:
        raise DataError(
            f"{uri}: found {f'one class, {classes[0]!r}' if classes else 'no usable image'}; "
            f"expected at least two: {LAYOUT}"
        )
    for split in ("val", *sorted(source_splits)):
        if not contents.has(split):
            raise DataError(
                f"{uri}: {split} has no usable image; it needs one"
                + ("" if source_splits else ", and so a class with two different images")
            )
    trained = {image.label for image in contents.images if image.split == "train"}
    absent = [name for label, name in enumerate(classes) if label not in trained]
    if absent:
        raise DataError(
            f"{uri}: {len(absent)} of {len(classes)} classes have no image in train: "
            f"{', '.join(absent[:SHOWN])}{', ...' if len(absent) > SHOWN else ''}; "
            "add some, or remove the classes from the other splits"
        )


def draft_version(
    name: str,
    uri: str,
    settings: ImportSettings,
    contents: Contents,
    notes: Sequence[str],
    parent: str | None,
) -> DatasetDraft:
    """Return the draft of the version of dataset `name` that holds `contents`."""
    classes, images = contents.classes, contents.images
    digest = _digest(settings, contents)
    counted = [split for split in SPLITS if contents.has(split)]
    counts = Counter((image.split, image.label) for image in images)
    digests = from_hexadecimal([image.sha256 for image in images])
    numbers, _ = numbered(digests)
    copied = images_by_digest(compress(images, is_copied(digests)))
    splits = np.array([SPLITS.index(image.split) for image in images], np.int8)
    in_split = {split: splits == SPLITS.index(split) for split in counted}
    return DatasetDraft(
        name=name,
        version=digest[:16],
        digest=digest,
        classes=tuple(classes),
        settings=settings,
        counts={
            split: {label: counts[split, i] for i, label in enumerate(classes)} for split in counted
        },
        images=len(images),
        distinct={split: len(np.unique(numbers[chosen])) for split, chosen in in_split.items()},
        bytes=sum(images[first].size for first in first_of_each(digests)),
        width=_spread([image.width for image in images]),
        height=_spread([image.height for image in images]),
        skipped=tuple(contents.skipped),
        leakage=tuple(find_leakage(copied)),
        conflicts=tuple(find_label_conflicts(copied, classes)),
        notes=tuple(notes),
        source=uri,
        parent=parent,
    )


def _digest(settings: ImportSettings, contents: Contents) -> str:
    """Return the hash that names a version; where the source lies has no part in it."""
    digest = hashlib.sha256(settings.model_dump_json(exclude={"skip_bad"}).encode())
    for image in contents.images:
        row = [image.sha256, contents.classes[image.label], image.split]
        digest.update(json.dumps(row).encode())
    digest.update(json.dumps(sorted(Path(file.path).name for file in contents.skipped)).encode())
    return digest.hexdigest()


def _spread(lengths: Sequence[int]) -> Spread:
    return Spread(min=min(lengths), median=statistics.median_low(lengths), max=max(lengths))
