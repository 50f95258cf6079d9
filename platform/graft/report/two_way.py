"""The interval of a mean over seeds crossed with images, and what a family of them shows; pure.

Every seed of a training is tried on the same test images: value(seed, image) = mean + effect of the
seed + effect of the image + rest. What is estimated is the mean over new seeds and new images, both
drawn as these were, so that its variance has two parts, from the mean squares of a two-way layout
(Searle, Casella & McCulloch, Variance Components, 1992, chapter 4).

The part of the seeds has a degree of freedom for each seed but one; the part of the images is taken
as known. The interval is the generalised one of Weerahandi (JASA 88, 1993; Hannig, Iyer &
Patterson, JASA 101, 2006): the normal one, averaged over what the seeds' part may be. It is
Student's where seeds alone vary, the normal one where images alone do, and in between wider than
Satterthwaite's, which covers as little as 92 % with 3 seeds. The table is in docs/reports.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chi2

from graft.report.interval import LEVEL

LEAST_SEEDS = 3
"""With fewer seeds no interval is claimed."""
NODES = 500
"""Points at which the distribution of the seeds' part is taken."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TwoWay:
    """A mean over seeds and images, and the two parts of its variance."""

    mean: float
    seed_part: float
    """Of seeds, and of what is neither seed nor image."""
    image_part: float
    seeds: int

    def half_width(self, level: float = LEVEL) -> float:
        """Return half the width of the interval of that level."""
        return half_width(self.seed_part, self.image_part, self.seeds, level)

    def p_value(self) -> float:
        """Return the two-sided p-value of a mean of 0."""
        return float(_tails(abs(self.mean), self.seed_part, self.image_part, self.seeds))


def two_way(values: Array, pseudo: Sequence[float]) -> TwoWay:
    """Return the mean of values (seeds, images), and the parts of its variance.

    Args:
        values: (S, N), S at least 2.
        pseudo: values of images that are added for all seeds, so that a handful of images which
            happen to agree does not give an interval of no width: `SHARE` or `DIFFERENCE`.
    """
    seeds, images = values.shape
    mean, seed_part, image_part = parts(*moments(values), images, np.asarray(pseudo))
    return TwoWay(float(mean), float(seed_part), float(image_part), seeds)


SHARE = (0.0, 0.0, 1.0, 1.0)
"""Added to a share, as Agresti & Coull do (American Statistician 52, 1998)."""
DIFFERENCE = (-1.0, 1.0)
"""Added to a paired difference of shares, as Bonett & Price do (JEBS 37, 2012)."""


def moments(values: Array) -> tuple[Array, Array]:
    """Return the seeds' means (..., S) and products (..., S, S) of values (..., S, N)."""
    images = values.shape[-1]
    return values.mean(-1), values @ np.swapaxes(values, -1, -2) / images


def parts(means: Array, products: Array, images: int, pseudo: Array) -> tuple[Array, Array, Array]:
    """Return the mean, the part of its variance from seeds, and that from images.

    Args:
        means: of each seed over the images, (..., S).
        products: of each two seeds' values, their mean over the images, (..., S, S).
        images: their number.
        pseudo: values of the images that are added.
    """
    seeds, count = means.shape[-1], images + len(pseudo)
    means = (means * images + pseudo.sum()) / count
    products = (products * images + (pseudo**2).sum()) / count
    mean = means.mean(-1)
    # Sums of squares, each divided by the number of values.
    of_seeds = (means**2).mean(-1) - mean**2
    of_images = products.mean((-1, -2)) - mean**2
    of_all = np.trace(products, axis1=-2, axis2=-1) / seeds - mean**2
    rest = (of_all - of_seeds - of_images) / ((seeds - 1) * (count - 1))
    seed_part = of_seeds / (seeds - 1)
    least = (pseudo**2).sum() / count**2  # what the added images alone give
    image_part = np.maximum(of_images / (count - 1) - rest, least)
    return mean, np.maximum(seed_part, 0), image_part


def half_width(seed_part: float, image_part: float, seeds: int, level: float = LEVEL) -> float:
    """Return half the width of the interval of a mean whose variance has these parts."""
    scale = math.sqrt(seed_part + image_part)

    def excess(width: float) -> float:
        tails = _tails(width, seed_part / scale**2, image_part / scale**2, seeds)
        return float(tails) - (1 - level)

    return scale * float(brentq(excess, 0, 1e6))


def _tails(distance: float, seed_part: float, image_part: float, seeds: int) -> float:
    """Return the probability that the mean lies farther from the estimate than a distance."""
    if not distance:
        return 1.0
    spread, weights = spread_of_seed_part(seeds)
    deviations = np.sqrt(seed_part / spread + image_part)
    return float(np.average(2 * ndtr(-distance / deviations), weights=weights))


@cache
def spread_of_seed_part(seeds: int) -> tuple[Array, Array]:
    """Return by what the seeds' part is divided: chi-squared over its degrees, with weights."""
    points = (np.arange(NODES) + 0.5) / NODES  # cubed: most of them where the part may be large
    return chi2.ppf(points**3, seeds - 1) / (seeds - 1), points**2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number; Holm, Scand. J. Statistics 6 (1979).

    Where all whose corrected value is below 5 % are said to be shown, the probability that any of
    these is false is below 5 %.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
