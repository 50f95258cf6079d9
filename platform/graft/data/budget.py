"""Label budgets: which of a version's images a job learns from; a pure, stratified, seeded choice.

Of one seed, the images of a smaller budget are always among those of a larger one, so that what
more labels bring is measured on the same images and more.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from graft.data.manifest import DatasetVersion, Image
from graft.errors import InputError
from graft.spec import Dataset


@dataclass(frozen=True)
class Budget:
    """The images of a job."""

    train: tuple[Image, ...]
    val: tuple[Image, ...]
    val_split: str
    """The split that `val` is part of."""


def choose_images(dataset: DatasetVersion, spec: Dataset) -> Budget:
    """Return what a job trains on and validates with, in the dataset's order.

    Raises:
        InputError: a class would have no image to train on, or none to hold out.
    """
    ref, classes = dataset.manifest.ref, dataset.manifest.classes
    train: Sequence[Image] = dataset.images("train")
    if spec.labels is not None:
        train = _labelled(train, spec.labels, spec.labels_seed, classes, ref)
    if spec.holdout is None:
        return Budget(tuple(train), tuple(dataset.images("val")), "val")
    held = _held_out(train, spec.holdout, spec.labels_seed, classes, ref)
    kept = [image for image in train if image.sha256 not in held]
    val = [image for image in train if image.sha256 in held]
    return Budget(tuple(kept), tuple(val), "train")


def _labelled(
    images: Sequence[Image], labels: float, seed: int, classes: Sequence[str], ref: str
) -> list[Image]:
    """Return a share (a float), or a number (an int), of each class's images."""
    chosen: set[str] = set()
    for label, digests in _by_class(images).items():
        share = isinstance(labels, float)
        count = round(labels * len(digests)) if share else int(labels)
        if count < 1:
            raise InputError(
                f"dataset.labels: {labels:g} leaves none of the {len(digests)} training images of "
                f"class '{classes[label]}' of {ref}; the least share is {0.5 / len(digests):.2g}"
            )
        if count > len(digests):
            raise InputError(
                f"dataset.labels: {ref} has {len(digests)} training images of class "
                f"'{classes[label]}', fewer than {count}"
            )
        chosen.update(_ranked(digests, f"labels/{seed}")[:count])
    return [image for image in images if image.sha256 in chosen]


def _held_out(
    images: Sequence[Image], share: float, seed: int, classes: Sequence[str], ref: str
) -> set[str]:
    """Return the digests of a share of each class's images, one at least."""
    held: set[str] = set()
    for label, digests in _by_class(images).items():
        if len(digests) < 2:
            raise InputError(
                f"dataset.holdout: class '{classes[label]}' of {ref} has one image in this "
                "budget, which cannot both train and validate; raise dataset.labels"
            )
        count = min(max(round(share * len(digests)), 1), len(digests) - 1)
        held.update(_ranked(digests, f"holdout/{seed}")[:count])
    return held


def _by_class(images: Iterable[Image]) -> dict[int, set[str]]:
    found: defaultdict[int, set[str]] = defaultdict(set)
    for image in images:
        found[image.label].add(image.sha256)
    return found


def _ranked(digests: Iterable[str], salt: str) -> list[str]:
    """Return digests in an order that follows from each one alone: new images move no others."""
    return sorted(digests, key=lambda digest: sha256(f"{salt}/{digest}".encode()).digest())
