"""The interval of a share of images, an accuracy, over seeds crossed with images; pure.

Near 0 and 1 the shares of seeds are skewed, and the interval of `two_way`, which takes their mean
for a normal one, holds it in as little as 78 % (0.97, with a deviation of 0.05 over seeds). On the
probit scale they are not: of normal probits of mean m and variance v the mean share is
Φ(m / √(1 + v)) (Zeger, Liang & Albert, Biometrics 44, 1988). Its generalised interval follows from
those of m and v, as that of a log-normal mean does (Krishnamoorthy & Mathew, JSPI 115, 2003). The
part of the images is taken as known, as in `two_way`. The table is in docs/reports.md.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from graft.report.interval import LEVEL
from graft.report.two_way import SHARE, parts, spread_of_seed_part

PROBIT, SLOPE = 1 / 3, 1.0
"""Right and wrong answers that are added, each so many, to where a probit is taken, and to where
its slope is: a share of 1 has neither."""
STEPS = 40
"""Halvings by which an end is found."""

Array = NDArray[np.float64]


class ShareMean:
    """What seeds' shares say of the mean share, for a batch of reports."""

    def __init__(self, means: Array, products: Array, images: int):
        """Take what `moments` gives of values of 0 to 1: means (..., S), products (..., S, S)."""
        probits = ndtri((means * images + PROBIT) / (images + 2 * PROBIT))
        self._centre, self._variance = probits.mean(-1), probits.var(-1, ddof=1)
        _, _, of_images = parts(means, products, images, np.array(SHARE))
        share = (means.mean(-1) * images + SLOPE) / (images + 2 * SLOPE)
        slope = np.exp(-(ndtri(share) ** 2) / 2) / np.sqrt(2 * np.pi)
        self._of_images = of_images / slope**2
        self._seeds = means.shape[-1]

    def below(self, share: Array) -> Array:
        """Return the probability that the mean share is below one, for each report."""
        spread, weights = spread_of_seed_part(self._seeds)
        variance = self._variance[..., None] / spread
        deviation = np.sqrt(variance / self._seeds + self._of_images[..., None])
        distance = ndtri(share)[..., None] * np.sqrt(1 + variance) - self._centre[..., None]
        below: Array = np.asarray(np.average(ndtr(distance / deviation), -1, weights), np.float64)
        return below

    def quantile(self, probability: float) -> Array:
        """Return the share that the mean is below with a probability, for each report."""
        low, high = np.zeros_like(self._centre), np.ones_like(self._centre)
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = self.below(middle) >= probability
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.asarray(high)

    def ends(self, level: float = LEVEL) -> tuple[Array, Array]:
        """Return the ends of the interval of that level, for each report."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)
