"""Which images judge the models of a transfer report: none that any of them may have seen."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graft.data.index import Images
from graft.data.manifest import DatasetVersion
from graft.report.seen_images import Seen, roles_of, seen_by_weights, told_apart
from graft.report.uses import images_that_judge
from graft.spec import TransferReport
from graft.store import Store


@dataclass(frozen=True)
class JudgingImages:
    """The images that all models of a report are judged on."""

    split: str
    images: Images
    """Of copies the first."""
    left_out: tuple[str, ...]
    """Which others would judge, had they not trained or tuned a model, a line each."""


def holds_out(dataset: DatasetVersion) -> bool:
    """Whether models are judged on the validation images, and tuned on a part of the labels."""
    return not dataset.images("test")


def judging_images(store: Store, spec: TransferReport, dataset: DatasetVersion) -> JudgingImages:
    """Return what the models of a report are judged on.

    That is neither a copy of an image that trains or tunes one of them, nor an image that a model
    has seen which one of the backbones starts from, under whatever dataset's name.

    Args:
        store: where those models are.
        spec: the report's, as it was recorded.
        dataset: the version that it learns from.
    """
    split = "val" if holds_out(dataset) else "test"
    images = images_that_judge(dataset.images(split), split)
    unseen, left_out = told_apart(images.sha256, _seen(store, spec, dataset, split))
    return JudgingImages(split, images.at(np.array(unseen, bool)), tuple(left_out))


def _seen(
    store: Store, spec: TransferReport, dataset: DatasetVersion, split: str
) -> Iterator[Seen]:
    """Yield what the models of a report see, and what those had that they start from."""
    val = dataset.images("val")[:0] if split == "val" else dataset.images("val")
    roles = roles_of(dataset.images("train"), val)
    yield Seen("models of the report", dataset.manifest.ref, roles)
    for weights in dict.fromkeys(backbone.weights for backbone in spec.backbones):
        yield from seen_by_weights(store, weights)
