"""Spec sections on which trials of a sweep are stopped before their last epoch."""

from typing import Annotated, Literal

from pydantic import Field

from graft.spec.section import Fraction, Positive, Section


class NoScheduler(Section):
    """Every trial trains all its epochs."""

    kind: Literal["none"]


class ASHA(Section):
    """Asynchronous successive halving (arXiv:1810.05934): after 1, 3, 9, ... epochs, the worse
    trials stop."""

    kind: Literal["asha"] = "asha"
    grace: Positive = 1
    """Epochs that every trial trains; the first comparison."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One in so many goes on at each comparison; the next is after so many times the epochs."""


class HyperBand(Section):
    """HyperBand (arXiv:1603.06560): successive halving from several first comparisons at once."""

    kind: Literal["hyperband"]
    reduction: Annotated[int, Field(ge=2)] = 3
    """One in so many goes on at each comparison."""


class MedianStopping(Section):
    """A trial stops where its best is below the median of the others' means so far."""

    kind: Literal["median"]
    grace: Positive = 1
    """Epochs that every trial trains."""
    min_trials: Annotated[int, Field(ge=2)] = 3
    """Trials that must have come as far before one is stopped."""


class PBT(Section):
    """Population-based training (arXiv:1711.09846).

    Every few epochs the worst trials go on from the weights of the best, with their values
    changed a little. The trials of the search are the population.
    """

    kind: Literal["pbt"]
    every: Positive = 1
    """Epochs between two exchanges."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Part of the population that counts as the worst, and as the best."""
    resample: Fraction = 0.25
    """Probability that a value is drawn anew instead of changed a little."""


Scheduler = Annotated[
    NoScheduler | ASHA | HyperBand | MedianStopping | PBT, Field(discriminator="kind")
]
