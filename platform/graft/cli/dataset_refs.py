"""Which images a command on models means."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.data.manifest import DatasetVersion
    from graft.registry import ModelVersion
    from graft.store import Store


def open_dataset_ref(store: "Store", ref: str) -> "DatasetVersion":
    """Return the dataset version that NAME[@VERSION] means; NAME alone means the latest.

    Raises:
        NotFoundError: there is no such dataset version.
    """
    from graft.data.manifest import LATEST, open_dataset

    name, _, version = ref.partition("@")
    return open_dataset(store, name, version or LATEST)


def full_dataset_ref(store: "Store", ref: str) -> str:
    """Return the full NAME@VERSION of what `open_dataset_ref` opens, which may be damaged.

    Raises:
        NotFoundError: there is no such dataset version.
    """
    from graft.data.manifest import LATEST, full_version

    name, _, version = ref.partition("@")
    return f"{name}@{full_version(store, name, version or LATEST)}"


def evaluation_images(
    store: "Store", model: "ModelVersion", dataset: str | None, split: str | None
) -> "tuple[DatasetVersion, str]":
    """Return the dataset and the split to evaluate a model on.

    The default is the dataset that the model was trained on, and its test split, or where it has
    none, its validation split.

    Raises:
        NotFoundError: no such dataset version.
        InputError: no such split, or no images of the model's classes in it.
    """
    from graft.data.splits import SPLITS
    from graft.errors import InputError
    from graft.report.evaluation.classes import labels_for

    if split not in (None, *SPLITS):
        raise InputError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    lineage = model.lineage
    images = open_dataset_ref(store, dataset or f"{lineage.dataset}@{lineage.dataset_version}")
    split = split or ("test" if images.images("test") else "val")
    labels_for(model, images, split)
    return images, split
