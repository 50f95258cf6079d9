"""Two models on the same images: is one shown to be better? Pure.

Only images that exactly one of the models gets right tell their accuracies apart: McNemar's test
(Psychometrika 12, 1947), exact, as a binomial test.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from graft.registry import Outcome
from graft.report.evaluation.predictions import Predictions
from graft.report.interval import LEVEL, Interval
from graft.report.two_way import DIFFERENCE
from graft.report.uses import Part, part_that_judges, used_already
from graft.spec import Section


class Disagreement(Section):
    """An image that one model got right and the other wrong."""

    sha256: str
    path: str
    label: str
    first: str
    """What the first model predicted."""
    second: str
    """What the second model predicted."""


class Comparison(Section):
    """The figures of two models on one split, side by side."""

    first: str
    """NAME@VERSION."""
    second: str
    dataset: str
    """NAME@VERSION."""
    split: str
    images: int
    """Distinct ones."""
    copies: int = 0
    """Images of the split that are left out, as copies of these."""
    accuracies: tuple[float, float]
    both_right: int
    only_first: int
    """Images that the first model alone got right."""
    only_second: int
    both_wrong: int
    difference: float
    """Accuracy of the second model minus that of the first."""
    difference_interval: Interval
    """Of `difference`, over images."""
    p_value: float
    """p-value of McNemar's exact test, two-sided."""
    outcome: Outcome
    """What McNemar's test shows of the second model, at the interval's level."""
    changed: tuple[Disagreement, ...]
    """Images that exactly one model got right, in the dataset's order."""
    part: Part | None = None
    """Part of the split that judges; null: all of it."""
    left_out: tuple[str, ...] = ()
    """Which images trained or tuned either model, a line each; they do not judge."""
    verdict: bool = True
    """Whether anything was judged. If not, all images are those of `left_out`, the figures are of
    these, and `outcome` is `not shown`."""
    used_before: int = 0
    """How many other reports had used one of these images before."""

    def __str__(self) -> str:
        first, second = self.accuracies
        return (
            f"{self.second} {100 * second:.1f} %, {self.first} {100 * first:.1f} % of "
            f"{self.images:,} images of {self.dataset}, {self.split}, right; McNemar's p "
            f"{self.p_value:.2g}{used_already(self.used_before)}"
        )


def compare(first: Predictions, second: Predictions) -> Comparison:
    """Compare the predictions of two models of the same classes for the same images."""
    right1, right2 = first.right, second.right
    only_first, only_second = int((right1 & ~right2).sum()), int((~right1 & right2).sum())
    p_value = 1.0
    if only_first + only_second:
        p_value = float(binomtest(only_second, only_first + only_second).pvalue)
    difference = right2.astype(np.float64) - right1
    outcome: Outcome = "not shown"
    if p_value < 1 - LEVEL:
        outcome = "better" if only_second > only_first else "worse"
    return Comparison(
        first=first.model,
        second=second.model,
        dataset=first.dataset,
        split=first.split,
        images=len(right1),
        copies=first.copies,
        accuracies=(float(right1.mean()), float(right2.mean())),
        both_right=int((right1 & right2).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~right1 & ~right2).sum()),
        difference=float(difference.mean()),
        difference_interval=difference_interval(difference),
        p_value=p_value,
        outcome=outcome,
        changed=tuple(
            Disagreement(
                sha256=first.images[i],
                path=first.paths[i],
                label=first.classes[first.labels[i]],
                first=first.classes[first.predicted[i]],
                second=second.classes[second.predicted[i]],
            )
            for i in np.flatnonzero(right1 != right2)
        ),
    )


def compare_unseen(
    first: Predictions, second: Predictions, unseen: Sequence[bool], left_out: Sequence[str]
) -> Comparison:
    """Compare two models on the images that neither has seen; without any, give no verdict.

    Args:
        first: its predictions.
        second: its predictions, for the same images.
        unseen: of each image, whether neither model has seen it.
        left_out: which images these are, a line each.
    """
    part = part_that_judges(first.split)
    if any(unseen):
        places = np.flatnonzero(unseen)
        comparison = compare(first.at(places), second.at(places))
        return comparison.model_copy(update={"part": part, "left_out": tuple(left_out)})
    nothing = {"outcome": "not shown", "verdict": False, "left_out": tuple(left_out), "part": part}
    return compare(first, second).model_copy(update=nothing)


def difference_interval(differences: NDArray[np.float64]) -> Interval:
    """Return the interval of the mean of paired differences, one an image: (N,).

    Two images are added, one that each model alone gets right (Bonett & Price, JEBS 37, 2012): so
    few images, or models that never differ, do not give an interval of no width.
    """
    adjusted = np.append(differences, DIFFERENCE)
    mean, half = adjusted.mean(), norm.isf((1 - LEVEL) / 2) * adjusted.std() / len(adjusted) ** 0.5
    return Interval(low=max(-1.0, float(mean - half)), high=min(1.0, float(mean + half)))
