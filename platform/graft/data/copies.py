"""Copies: images of a dataset version whose files have the same bytes.

Copies say nothing new of a model: every interval, test and report counts them once. Training sees
each of them, and so do the metrics of its epochs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.digests import Digests, first_of_each, numbered
from graft.data.index import Image, Images
from graft.data.manifest import LabelConflict, Leakage

ByDigest = Mapping[str, Sequence[Image]]
"""The images of each file digest, in the index's order."""


def images_by_digest(images: Iterable[Image]) -> ByDigest:
    """Group images by the SHA-256 of their files."""
    groups: defaultdict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[image.sha256].append(image)
    return groups


@dataclass(frozen=True)
class Copies:
    """Images of one class and split whose files have the same bytes."""

    label: int
    split: str
    paths: tuple[str, ...]


def distinct_images(images: Images) -> Images:
    """Return the first of each image and its copies, in the given order."""
    return images.at(first_of_each(images.digests))


def copied_images(images: Images) -> Images:
    """Return the images of which there are copies, all of these, in the given order."""
    return images.at(np.flatnonzero(is_copied(images.digests)))


def is_copied(digests: Digests) -> NDArray[np.bool_]:
    """Return which digests come more than once: (n,)."""
    numbers, _ = numbered(digests)
    copied: NDArray[np.bool_] = np.bincount(numbers)[numbers] > 1
    return copied


def find_copies(images: Images) -> Iterator[Copies]:
    """Yield the images that one class and split have more than once, in the index's order."""
    groups: defaultdict[tuple[str, int, str], list[str]] = defaultdict(list)
    for image in copied_images(images):
        groups[image.split, image.label, image.sha256].append(image.path)
    for (split, label, _), paths in groups.items():
        if len(paths) > 1:
            yield Copies(label, split, tuple(paths))


def find_leakage(by_digest: ByDigest) -> Iterator[Leakage]:
    """Yield the images that lie in more than one split: a model is judged on what it has seen."""
    for sha256, copies in by_digest.items():
        splits = tuple(dict.fromkeys(image.split for image in copies))
        if len(splits) > 1:
            paths = tuple(image.path for image in copies)
            yield Leakage(sha256=sha256, paths=paths, splits=splits)


def find_label_conflicts(by_digest: ByDigest, classes: Sequence[str]) -> Iterator[LabelConflict]:
    """Yield the images that have more than one label; `classes`: names in the labels' order."""
    for sha256, copies in by_digest.items():
        labels = tuple(dict.fromkeys(classes[image.label] for image in copies))
        if len(labels) > 1:
            paths = tuple(image.path for image in copies)
            yield LabelConflict(sha256=sha256, paths=paths, labels=labels)
