"""Which of a dataset version's images a job learns from: a pure, stratified, seeded choice.

With the same seed, a smaller `dataset.labels` chooses a part of what a larger one chooses, so
that the larger one's gain comes from added images alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import numpy as np
from numpy.typing import NDArray

from graft.data.digests import DTYPE, Digests, hexadecimal, numbered, sorting_order
from graft.data.index import Images
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.spec import Dataset

_HASHED = 1 << 16
"""Digests of which the texts are in memory at a time."""


@dataclass(frozen=True)
class Subset:
    """The images that a job trains on and validates with."""

    train: Images
    val: Images
    val_split: str
    """The dataset's split that `val` comes from."""


def choose_subset(dataset: DatasetVersion, spec: Dataset) -> Subset:
    """Return what a job trains on and validates with, in the dataset's order.

    Raises:
        InputError: a class would have no image to train on, or none to hold out.
    """
    ref, classes = dataset.manifest.ref, dataset.manifest.classes
    train = dataset.images("train")
    if spec.labels is not None:
        train = train.at(_labelled(train, spec.labels, spec.labels_seed, classes, ref))
    if spec.holdout is None:
        return Subset(train, dataset.images("val"), "val")
    held_out = _held_out(train, spec.holdout, spec.labels_seed, classes, ref)
    return Subset(train=train.at(~held_out), val=train.at(held_out), val_split="train")


def _labelled(
    images: Images, labels: float, seed: int, classes: Sequence[str], ref: str
) -> NDArray[np.bool_]:
    """Return which images are a share (a float), or a number (an int), of each class's: (n,)."""
    distinct = _Distinct.of(images)
    # What the smallest class bears, every class does.
    label, fewest = min(distinct.sizes.items(), key=lambda item: item[1])
    if _count(labels, fewest) < 1:
        raise InputError(
            f"dataset.labels: {labels} leaves none of the {fewest} training images of class "
            f"'{classes[label]}' of {ref}; the least share is {least_share(fewest):g}"
        )
    if _count(labels, fewest) > fewest:
        raise InputError(
            f"dataset.labels: {ref} has {fewest} training images of class '{classes[label]}', "
            f"fewer than {labels}; use at most {fewest}"
        )
    return distinct.choose(f"labels/{seed}", lambda size: _count(labels, size))


def _count(labels: float, images: int) -> int:
    """Return how many of a class's images a share (a float) or a number (an int) of them is."""
    return round(labels * images) if isinstance(labels, float) else int(labels)


def least_share(images: int) -> float:
    """Return the least share of two digits that is one of so many images."""
    half = 0.5 / images  # rounds to no image
    digit = 10.0 ** (math.floor(math.log10(half)) - 1)
    return float(f"{(math.floor(half / digit) + 1) * digit:.2g}")


def _held_out(
    images: Images, share: float, seed: int, classes: Sequence[str], ref: str
) -> NDArray[np.bool_]:
    """Return which images are a share of each class's, of one image at least: (n,)."""
    distinct = _Distinct.of(images)
    for label, size in distinct.sizes.items():
        if size < 2:
            raise InputError(
                f"dataset.holdout: class '{classes[label]}' of {ref} has one image in this "
                "subset, which cannot both train and validate; raise dataset.labels, or import "
                "more images of the class"
            )
    return distinct.choose(
        f"holdout/{seed}", lambda size: min(max(round(share * size), 1), size - 1)
    )


@dataclass(frozen=True)
class _Distinct:
    """The distinct images of each class: m, sorted by label, of n images."""

    digests: Digests
    """(m,)."""
    sizes: dict[int, int]
    """How many there are of each label."""
    numbers: NDArray[np.int64]
    """Which distinct digest each image has, wherever its copies are: (n,)."""
    places: NDArray[np.int64]
    """Where an image of each lies: (m,)."""

    @classmethod
    def of(cls, images: Images) -> Self:
        """Return those of images."""
        digests, labels = images.digests, images.labels
        numbers, count = numbered(digests)
        _, places = np.unique(labels.astype(np.int64) * count + numbers, return_index=True)
        sizes = np.unique(labels[places], return_counts=True)
        by_label = dict(zip(*(part.tolist() for part in sizes), strict=True))
        return cls(digests[places], by_label, numbers, places)

    def choose(self, salt: str, count_of: Callable[[int], int]) -> NDArray[np.bool_]:
        """Return which images are among those that come first in their class: (n,).

        They are sorted by a hash of each alone, so that new images do not reorder the others.

        Args:
            salt: begins what is hashed.
            count_of: how many of a class of so many distinct images are chosen.
        """
        sizes = list(self.sizes.values())
        label = np.repeat(np.arange(len(sizes)), sizes)
        order = sorting_order(_hashes(self.digests, salt))
        order = order[np.argsort(label[order], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        chosen = order[rank < np.repeat([count_of(size) for size in sizes], sizes)]
        is_chosen = np.zeros(self.numbers.max(initial=0) + 1, np.bool_)
        is_chosen[self.numbers[self.places[chosen]]] = True
        return is_chosen[self.numbers]


def _hashes(digests: Digests, salt: str) -> Digests:
    """Return the SHA-256 of ``SALT/DIGEST``, a text, for each digest: (n,).

    That takes most of the time of a choice: about a microsecond each.
    """
    begin = sha256(f"{salt}/".encode())
    hashes = bytearray()
    for first in range(0, len(digests), _HASHED):
        for digest in hexadecimal(digests[first : first + _HASHED]):
            hashed = begin.copy()
            hashed.update(digest.encode())
            hashes += hashed.digest()
    return np.frombuffer(bytes(hashes), DTYPE)
