"""Promises about a model's answers, and what held-out images say of each.

A promise is kept or broken by the answers alone, so that its test is the exact binomial one,
whatever made the thresholds: they only have to come from other images. A mean cost is bounded by
Hoeffding's and Bentkus' inequalities (Bates, Angelopoulos, Lei, Malik & Jordan, J. ACM 68, 2021).
Who is refused and asks again has more than one chance: the risk is spent over all tries, as in
sequential trials (Lan & DeMets, Biometrika 70, 1983).
"""

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binom

from graft.decisions.calibration import Labels
from graft.decisions.rules import UNKNOWN
from graft.spec import Section

PromiseKind = Literal["recall", "precision", "false-accepts", "accuracy", "cost"]
POWER = 0.8
"""How probably a promise is made with the number of images that is asked for."""
_MOST = 10_000_000
"""No more images are asked for."""


class Target(Section):
    """What is asked of the answers."""

    kind: PromiseKind
    """recall: of images of the class, so many are answered with it. precision: of answers with the
    class, so many are right, at the class shares of the images. false-accepts: of images of other
    classes, at most so many are answered with it. accuracy: of all answers that are not `unknown`,
    so many are right. cost: the mean cost of an image is at most so much."""
    name: str | None = None
    """The class; null: all, for `accuracy` and `cost`."""
    value: Annotated[float, Field(ge=0)]

    def __str__(self) -> str:
        if self.kind == "cost":
            return f"mean cost at most {self.value:g}"
        side = "at most" if self.kind == "false-accepts" else "at least"
        what = f"{self.kind.replace('-', ' ')}{f' of {self.name}' if self.name else ''}"
        return f"{what} {side} {100 * self.value:g} %"


class Promise(Section):
    """A target that images have certified, or have not."""

    target: Target
    images: int
    """Images that it is about, of those that certify."""
    kept: int
    """Of these, those that are answered as the target wants."""
    mean_cost: float | None = None
    """Of `cost`."""
    p_value: float
    """How probable so good a result is, at most, where the target is missed."""


def certify(
    target: Target, decided: NDArray[np.int64], labels: Labels, classes: tuple[str, ...]
) -> Promise:
    """Return what images say of a target but a cost: answers (N,), true classes (N,)."""
    about, kept = _about(target, decided, labels, classes)
    images, count = int(about.sum()), int((about & kept).sum())
    return Promise(target=target, images=images, kept=count, p_value=p_value(target, images, count))


def certify_cost(target: Target, costs: NDArray[np.float64], largest: float) -> Promise:
    """Return what images say of a mean cost: what each cost (N,), and what one costs at most."""
    images, mean = len(costs), float(costs.mean()) if len(costs) else 0.0
    return Promise(
        target=target,
        images=images,
        kept=int((costs <= target.value).sum()),
        mean_cost=mean,
        p_value=cost_p_value(target.value, mean, images, largest),
    )


def _about(
    target: Target, decided: NDArray[np.int64], labels: Labels, classes: tuple[str, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images a target is about, and which are answered as it wants."""
    if target.name is None:
        return decided != UNKNOWN, decided == labels
    position = classes.index(target.name)
    is_class, says_class = labels == position, decided == position
    match target.kind:
        case "recall":
            return is_class, says_class
        case "precision":
            return says_class, is_class
        case _:
            return ~is_class, ~says_class


def least_share(target: Target) -> float:
    """Return the share of images that have to be answered as a target wants."""
    return 1 - target.value if target.kind == "false-accepts" else target.value


def p_value(target: Target, images: int, kept: int) -> float:
    """Return the exact binomial p-value of the target being missed."""
    return float(binom.sf(kept - 1, images, least_share(target))) if images else 1.0


def level_of_try(confidence: float, before: int) -> float:
    """Return the level at which a try is tested that so many others came before.

    The first gets a half of the risk, then a sixth, a twelfth: 1 / (k * (k + 1)) of it, which all
    tries together sum to less than. So whatever is asked, and however often images are added, a
    promise is broken in so many draws as the confidence leaves, at most (the union bound). The
    levels fall slowly: the tenth try at a recall of 95 % takes about twice the images of the first.
    """
    return (1 - confidence) / ((before + 1) * (before + 2))


def least_images(target: Target, level: float) -> int:
    """Return how many images certify a target where all of them are answered as it wants."""
    share = least_share(target)
    if share >= 1:
        return _MOST
    return 1 if share <= 0 else math.ceil(math.log(level) / math.log(share))


def images_needed(target: Target, share: float, level: float) -> int | None:
    """Return how many images would certify a target, in `POWER` of all draws.

    `share` of images are answered as it wants; None: that is too few for any number of images.
    """
    if share <= least_share(target):
        return None
    low, high = least_images(target, level), least_images(target, level)
    while high < _MOST and _power(target, share, level, high) < POWER:
        low, high = high, 2 * high
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        enough = _power(target, share, level, middle) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return min(high, _MOST)


def _power(target: Target, share: float, level: float, images: int) -> float:
    least = int(binom.isf(level, images, least_share(target))) + 1  # kept images that certify it
    return float(binom.sf(least - 1, images, share)) if least <= images else 0.0


def cost_p_value(most: float, mean: float, images: int, largest: float) -> float:
    """Return the p-value of a mean cost above `most`: of costs from 0 to `largest`."""
    alpha, risk = (most / largest, mean / largest) if largest else (1.0, 0.0)
    if not images or alpha <= risk:
        return 1.0
    if alpha >= 1:
        return 0.0
    divergence = (1 - risk) * math.log((1 - risk) / (1 - alpha))
    if risk > 0:
        divergence += risk * math.log(risk / alpha)
    bentkus = math.e * float(binom.cdf(math.ceil(images * risk), images, alpha))
    return min(1.0, math.exp(-images * divergence), bentkus)
