"""Two models on the same images: which is right where the other is wrong; pure.

The difference of two accuracies on the same images is a question of the images on which the
models disagree: McNemar's test (Psychometrika 12, 1947), exact, as a binomial test.
"""

import numpy as np
from scipy.stats import binomtest, bootstrap

from graft.registry import Outcome
from graft.report.predictions import Predictions
from graft.report.scores import LEVEL, Interval
from graft.spec import Section

RESAMPLES = 10_000


class Changed(Section):
    """An image that one model got right and the other wrong."""

    sha256: str
    path: str
    label: str
    first: str
    """What the first model predicted."""
    second: str


class Comparison(Section):
    """What a comparison found."""

    first: str
    """NAME@VERSION."""
    second: str
    dataset: str
    """NAME@VERSION."""
    split: str
    images: int
    accuracies: tuple[float, float]
    both_right: int
    only_first: int
    """Images that the first model alone got right."""
    only_second: int
    both_wrong: int
    difference: float
    """Accuracy of the second model less that of the first."""
    difference_interval: Interval
    """Percentiles of a bootstrap over images (seed 0)."""
    p_value: float
    """Of McNemar's exact test, two-sided."""
    outcome: Outcome
    """What is shown of the second model, at the interval's level."""
    changed: tuple[Changed, ...]
    """Images on which exactly one is right, in the dataset's order."""

    def __str__(self) -> str:
        first, second = self.accuracies
        return (
            f"{self.second} {100 * second:.1f} %, {self.first} {100 * first:.1f} % of "
            f"{self.images:,} images of {self.dataset}, {self.split}, right; McNemar's p "
            f"{self.p_value:.2g}"
        )


def compare(first: Predictions, second: Predictions) -> Comparison:
    """Compare the predictions of two models of the same classes for the same images."""
    a, b = first.right, second.right
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    p_value = 1.0
    if only_first + only_second:
        p_value = float(binomtest(only_second, only_first + only_second).pvalue)
    difference = b.astype(np.float64) - a
    outcome: Outcome = "not shown"
    if p_value < 1 - LEVEL:
        outcome = "better" if only_second > only_first else "worse"
    return Comparison(
        first=first.model,
        second=second.model,
        dataset=first.dataset,
        split=first.split,
        images=len(a),
        accuracies=(float(a.mean()), float(b.mean())),
        both_right=int((a & b).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~a & ~b).sum()),
        difference=float(difference.mean()),
        difference_interval=_interval(difference),
        p_value=p_value,
        outcome=outcome,
        changed=tuple(
            Changed(
                sha256=first.images[i],
                path=first.paths[i],
                label=first.classes[first.labels[i]],
                first=first.classes[first.predicted[i]],
                second=second.classes[second.predicted[i]],
            )
            for i in np.flatnonzero(a != b)
        ),
    )


def _interval(differences: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Interval:
    if np.all(differences == differences[0]):
        only = float(differences[0])  # nothing to resample
        return Interval(low=only, high=only)
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=100,  # of as many images each: memory
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(low=float(found.low), high=float(found.high))
