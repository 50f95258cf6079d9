"""Which of a dataset version's images a job learns from: a pure, stratified, seeded choice.

With the same seed, a smaller `dataset.labels` chooses a part of what a larger one chooses, so
that the larger one's gain comes from added images alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from graft.data.digests import DTYPE, Digests, hexadecimal
from graft.data.index import Images
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.spec import Dataset


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
    by_class = _by_class(images)
    # What the smallest class bears, every class does.
    label, fewest = min(((k, len(v)) for k, v in by_class.items()), key=lambda item: item[1])
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
    chosen = [
        _ranked(digests, f"labels/{seed}")[: _count(labels, len(digests))]
        for digests in by_class.values()
    ]
    return np.isin(images.digests, np.concatenate(chosen))


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
    chosen = []
    for label, digests in _by_class(images).items():
        if len(digests) < 2:
            raise InputError(
                f"dataset.holdout: class '{classes[label]}' of {ref} has one image in this "
                "subset, which cannot both train and validate; raise dataset.labels, or import "
                "more images of the class"
            )
        count = min(max(round(share * len(digests)), 1), len(digests) - 1)
        chosen.append(_ranked(digests, f"holdout/{seed}")[:count])
    return np.isin(images.digests, np.concatenate(chosen))


def _by_class(images: Images) -> dict[int, Digests]:
    """Return the digests of each class's distinct images, by label."""
    order = np.argsort(images.labels, kind="stable")
    labels, first = np.unique(images.labels[order], return_index=True)
    parts = np.split(images.digests[order], first[1:])
    return {int(label): np.unique(digests) for label, digests in zip(labels, parts, strict=True)}


def _ranked(digests: Digests, salt: str) -> Digests:
    """Sort digests by a hash of each alone, so that new images do not reorder the others."""
    hashes = [sha256(f"{salt}/{digest}".encode()).digest() for digest in hexadecimal(digests)]
    return digests[np.argsort(np.array(hashes, DTYPE), kind="stable")]
