"""Populations of images with logits, large enough that shares of them are known."""

import numpy as np

from graft.decisions.choose import Labelled


def population(classes: int, size: int, seed: int = 0, apart: float = 3.0) -> Labelled:
    """Return images of uneven classes: some look like others, and the model is too sure of itself.

    Args:
        classes: number of classes, the first the most frequent.
        size: number of images.
        seed: of the draws.
        apart: how far an image's own class is ahead, in standard deviations of the logits.
    """
    draw = np.random.default_rng(seed)
    shares = 1 / np.arange(1, classes + 1) ** 0.5
    labels = draw.choice(classes, size, p=shares / shares.sum())
    logits = draw.normal(size=(size, classes))
    logits[np.arange(size), labels] += apart
    logits[:, 0] += 0.5  # one class is answered too often
    return Labelled((2.5 * logits).astype(np.float32), labels.astype(np.int64))


def drawn(of: Labelled, count: int, draw: np.random.Generator) -> Labelled:
    """Return so many images of a population, drawn with replacement."""
    places = draw.integers(len(of), size=count)
    return Labelled(of.logits[places], of.labels[places])


def halves(of: Labelled, first: int) -> tuple[Labelled, Labelled]:
    """Return the first so many images, and the others."""
    return (
        Labelled(of.logits[:first], of.labels[:first]),
        Labelled(of.logits[first:], of.labels[first:]),
    )
