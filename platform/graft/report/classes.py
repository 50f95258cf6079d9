"""Whether a model and images, or two models, speak of the same classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.registry import ModelVersion


def labels_for(version: ModelVersion, dataset: DatasetVersion, split: str) -> NDArray[np.int64]:
    """Return a split's labels as positions in the model's classes: (N,).

    Raises:
        InputError: the split has no images, or some of a class that the model does not know.
    """
    manifest = dataset.manifest
    images = dataset.images(split)
    if not images:
        counts = {name: sum(found.values()) for name, found in manifest.counts.items()}
        having = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        raise InputError(
            f"{manifest.ref} has no images in split '{split}' (it has: {having}); choose one of "
            "these with --split, or import the images again with --test-fraction"
        )
    places = {name: place for place, name in enumerate(version.classes)}
    present = [manifest.classes[label] for label in sorted({image.label for image in images})]
    if unknown := [name for name in present if name not in places]:
        raise InputError(
            f"{version.ref} does not know {_listed(unknown)} of {manifest.ref}; it knows "
            f"{_listed(version.classes)}"
        )
    return np.array([places[manifest.classes[image.label]] for image in images], np.int64)


def check_classes(first: ModelVersion, second: ModelVersion) -> None:
    """Refuse to compare models that answer different questions, or a model with itself.

    Raises:
        InputError: one of them has a class that the other has not; or they are one.
    """
    if first.ref == second.ref:
        raise InputError(f"{first.ref} is both models; name another one to compare it with")
    told = [
        f"{one.ref} alone knows {_listed(only)}"
        for one, other in ((first, second), (second, first))
        if (only := sorted(set(one.classes) - set(other.classes)))
    ]
    if told:
        raise InputError(
            f"{first.ref} and {second.ref} have different classes ({'; '.join(told)}); models can "
            "be compared that answer the same question"
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
