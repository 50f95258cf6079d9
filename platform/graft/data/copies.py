"""Copies: images of a dataset version whose files have the same bytes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from graft.data.manifest import Image, LabelConflict, Leakage

ByDigest = Mapping[str, Sequence[Image]]
"""The images of each file digest, in the index's order."""


def images_by_digest(images: Iterable[Image]) -> ByDigest:
    """Group images by the SHA-256 of their files."""
    groups: defaultdict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[image.sha256].append(image)
    return groups


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
