"""Whether a model and a split's images, or two models, have the same classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.data.copies import distinct_images
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.registry import ModelVersion


def labels_for(version: ModelVersion, dataset: DatasetVersion, split: str) -> NDArray[np.int64]:
    """Return the labels of a split's distinct images as positions in the model's classes: (N,).

    Raises:
        InputError: the split has no images, or images of a class that the model does not know.
    """
    manifest = dataset.manifest
    images = distinct_images(dataset.images(split))
    if not images:
        counts = {name: sum(by_class.values()) for name, by_class in manifest.counts.items()}
        filled = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        raise InputError(
            f"{manifest.ref} has no images in split '{split}' (it has: {filled}); choose one of "
            "these with --split, or import the images again with --test-fraction"
        )
    positions = {name: position for position, name in enumerate(version.classes)}
    present = [manifest.classes[label] for label in np.unique(images.labels)]
    if unknown := [name for name in present if name not in positions]:
        raise InputError(
            f"{version.ref} does not know {_listed(unknown)} of {manifest.ref}; it knows "
            f"{_listed(version.classes)}"
        )
    known_as = np.array([positions.get(name, -1) for name in manifest.classes], np.int64)
    return known_as[images.labels]


def check_classes(first: ModelVersion, second: ModelVersion) -> None:
    """Refuse to compare models of different classes, or a model with itself.

    Raises:
        InputError: one has a class that the other lacks, or both are the same version.
    """
    if first.ref == second.ref:
        raise InputError(f"{first.ref} is both models; name another one to compare it with")
    differences = [
        f"{version.ref} alone knows {_listed(only)}"
        for version, other in ((first, second), (second, first))
        if (only := sorted(set(version.classes) - set(other.classes)))
    ]
    if differences:
        raise InputError(
            f"{first.ref} and {second.ref} have different classes ({'; '.join(differences)}); "
            "models can be compared that answer the same question"
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
