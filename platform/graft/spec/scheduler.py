"""Spec sections on schedulers: which trials of a sweep are stopped before their last epoch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft.spec.section import Fraction, Positive, Section


class NoScheduler(Section):
    """Every trial trains all its epochs."""

    kind: Literal["none"]


class ASHA(Section):
    """Asynchronous successive halving (arXiv:1810.05934): the worse trials stop after 1, 3, 9, ...
    epochs."""

    first_decision: ClassVar[str] = "grace"
    """The key that says how many epochs pass before the first decision."""
    kind: Literal["asha"] = "asha"
    grace: Positive = 1
    """Epochs that every trial trains before the first comparison."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """At each comparison 1 of `reduction` trials goes on; the next comparison comes after
    `reduction` times as many epochs."""


class HyperBand(Section):
    """HyperBand (arXiv:1603.06560): successive halvings with several first comparisons at once."""

    first_decision: ClassVar[str] = "reduction"
    kind: Literal["hyperband"]
    reduction: Annotated[int, Field(ge=2)] = 3
    """At each comparison 1 of `reduction` trials goes on."""


class MedianStopping(Section):
    """A trial stops when its best value is worse than the median of the others' means so far."""

    first_decision: ClassVar[str] = "grace"
    kind: Literal["median"]
    grace: Positive = 1
    """Epochs that every trial trains."""
    min_trials: Annotated[int, Field(ge=2)] = 3
    """Trials that must have trained equally many epochs before any trial is stopped."""


class PBT(Section):
    """Population-based training (arXiv:1711.09846).

    Every few epochs the worst trials continue from the weights of the best ones, with slightly
    changed values. The trials of the search are the population.
    """

    first_decision: ClassVar[str] = "every"
    kind: Literal["pbt"]
    every: Positive = 1
    """Epochs between two exchanges."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Fraction of the population that counts as the worst, and as the best."""
    resample: Fraction = 0.25
    """Probability that a value is drawn anew instead of changed slightly."""


Scheduler = Annotated[
    NoScheduler | ASHA | HyperBand | MedianStopping | PBT, Field(discriminator="kind")
]
