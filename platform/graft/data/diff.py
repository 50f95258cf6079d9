"""What two dataset versions differ in, by the digests of their images' files.

Array operations over both indexes: of each image there are a few numbers, and no object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.digests import numbered
from graft.data.index import Columns
from graft.data.manifest import DatasetVersion, ImportSettings
from graft.data.splits import SPLITS, made_fractions


@dataclass(frozen=True)
class ChangedImage:
    """An image that two versions do not have alike."""

    path: str
    """Its file's path in the source, of the later version where both have it."""
    before: tuple[str, ...]
    """``SPLIT/CLASS`` of each place that it has in the first version; none: it is not in it."""
    after: tuple[str, ...]
    """Likewise in the second one."""


@dataclass(frozen=True)
class Difference:
    """The images, each counted once, that two versions differ in, in one way."""

    images: int
    splits: Mapping[str, int]
    """How many by split; ``test → train`` for those whose split is another one."""
    first: tuple[ChangedImage, ...]
    """Some of them, in the order of the first version's index, then of the second's."""


@dataclass(frozen=True)
class DatasetDiff:
    """What has to change in one version for the other one."""

    before: str
    """NAME@VERSION."""
    after: str
    """NAME@VERSION."""
    added: Difference
    removed: Difference
    relabelled: Difference
    """In both versions, and of another class, or of other classes."""
    moved: Difference
    """In both versions, and in another split."""
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    settings: Mapping[str, tuple[float | None, float | None]]
    """The settings of import that differ: those of both versions; None: it has none."""

    @property
    def by_kind(self) -> dict[str, Difference]:
        """The differences by what they are called."""
        return {
            "added": self.added,
            "removed": self.removed,
            "relabelled": self.relabelled,
            "moved": self.moved,
        }


def diff_versions(before: DatasetVersion, after: DatasetVersion, limit: int) -> DatasetDiff:
    """Compare two dataset versions, of one dataset or of two.

    Args:
        before: the first version.
        after: the second one.
        limit: how many images of each difference are named.

    Raises:
        StoreError: an index is damaged.
    """
    old, new = _sides(before, after)
    is_old, is_new = old.splits != 0, new.splits != 0
    in_both = is_old & is_new
    relabelled = np.zeros_like(in_both)
    changed = np.setxor1d(old.labelled, new.labelled, assume_unique=True)
    relabelled[changed // old.class_count] = True

    def difference(differs: NDArray[np.bool_]) -> Difference:
        images = np.flatnonzero(differs)
        return Difference(
            len(images),
            _count_splits(old.splits[images], new.splits[images]),
            _describe(images[:limit], old, new),
        )

    first, second = before.manifest, after.manifest
    return DatasetDiff(
        before=first.ref,
        after=second.ref,
        added=difference(is_new & ~is_old),
        removed=difference(is_old & ~is_new),
        relabelled=difference(in_both & relabelled),
        moved=difference(in_both & (old.splits != new.splits)),
        classes_added=tuple(sorted(set(second.classes) - set(first.classes))),
        classes_removed=tuple(sorted(set(first.classes) - set(second.classes))),
        settings=_diff_settings(first.settings, second.settings),
    )


@dataclass(frozen=True)
class _Side:
    """The images of one of two versions; an image has a number, the same in both."""

    index: Columns
    classes: Sequence[str]
    """Names, by `index`'s labels."""
    numbers: NDArray[np.int64]
    """(rows,): the image of each row."""
    splits: NDArray[np.uint8]
    """(images,): bit i is set where the image is in the i-th of `SPLITS`."""
    labelled: NDArray[np.int64]
    """(pairs,): each image and class that a row has, once and in order, as image * `class_count` +
    class, the class's position among those of both versions."""
    class_count: int
    """How many classes both versions have together."""


def _sides(before: DatasetVersion, after: DatasetVersion) -> tuple[_Side, _Side]:
    """Read both indexes, and number the images and classes of both."""
    columns = before.columns, after.columns
    numbers, images = numbered(np.concatenate([side.sha256 for side in columns]))
    names = sorted({*before.manifest.classes, *after.manifest.classes})
    position = {name: number for number, name in enumerate(names)}

    def side(version: DatasetVersion, index: Columns, numbers: NDArray[np.int64]) -> _Side:
        splits = np.zeros(images, np.uint8)
        for bit in range(len(SPLITS)):
            splits[numbers[index.split == bit]] |= 1 << bit
        classes = version.manifest.classes
        labels = np.array([position[name] for name in classes], np.int64)[index.label]
        count = max(len(names), 1)
        # Sorted, since numpy's `unique`, which hashes, takes twenty times as long.
        pairs = np.sort(numbers * count + labels)
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]
        return _Side(index, classes, numbers, splits, distinct, count)

    rows = len(columns[0])
    return side(before, columns[0], numbers[:rows]), side(after, columns[1], numbers[rows:])


def _count_splits(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> dict[str, int]:
    """Count images by their splits in both versions: (images,), as `_Side.splits`."""
    pairs, counts = np.unique(before.astype(np.int64) << 8 | after, return_counts=True)
    counted = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        names = [_split_names(bits) for bits in divmod(pair, 1 << 8) if bits]
        counted[" → ".join(dict.fromkeys(names))] = count
    return counted


def _split_names(bits: int) -> str:
    """Return the names of splits that are bits, as `_Side.splits` has them."""
    return ", ".join(split for bit, split in enumerate(SPLITS) if bits >> bit & 1)


def _describe(images: NDArray[np.int64], old: _Side, new: _Side) -> tuple[ChangedImage, ...]:
    """Return what both versions say of images, which are few."""
    before, after = _rows(images, old), _rows(images, new)
    return tuple(
        ChangedImage(
            path=(after[image] or before[image])[0]["path"],
            before=tuple(row["place"] for row in before[image]),
            after=tuple(row["place"] for row in after[image]),
        )
        for image in images.tolist()
    )


def _rows(images: NDArray[np.int64], side: _Side) -> dict[int, list[dict[str, str]]]:
    """Return the rows of each image: its path and its place, ``SPLIT/CLASS``."""
    rows: dict[int, list[dict[str, str]]] = {image: [] for image in images.tolist()}
    positions = np.flatnonzero(np.isin(side.numbers, images))
    for position in positions.tolist():
        row = side.index.image(position)
        place = f"{row.split}/{side.classes[row.label]}"
        rows[side.numbers[position]].append({"path": row.path, "place": place})
    return rows


def _diff_settings(
    before: ImportSettings, after: ImportSettings
) -> dict[str, tuple[float | None, float | None]]:
    first, second = _settings(before), _settings(after)
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}


def _settings(settings: ImportSettings) -> dict[str, float | None]:
    fractions = made_fractions(settings.made)
    return {
        "max_side": settings.max_side,
        **{f"{split}_fraction": fraction for split, fraction in fractions.items()},
        "seed": settings.made.seed if settings.made else None,
    }
