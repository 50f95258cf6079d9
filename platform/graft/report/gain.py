"""What transfer bought: from the predictions of a designed experiment to its answers; pure.

Intervals are percentiles of a bootstrap that draws seeds and test images anew, the same draws for
all arms, so that differences are paired. Where an interval holds 0, nothing is shown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.registry import Outcome
from graft.report.design import ARMS, Budget
from graft.report.scores import LEVEL, Interval
from graft.spec import Section

RESAMPLES = 2_000
_NOT_SHOWN: Outcome = "not shown"
LEAST_SEEDS = 5
"""With fewer, no interval is claimed."""


class Estimate(Section):
    """A figure of one arm, or a difference of two."""

    value: float
    interval: Interval | None
    """Null: too few seeds."""
    seeds: tuple[float, ...]
    """Each seed's own."""


class Versus(Section):
    """One figure of an arm against scratch's."""

    difference: Estimate
    """The arm's less scratch's."""
    outcome: Outcome
    """What is shown of the arm."""


class Gain(Versus):
    """What an arm gains over scratch at one label budget, in accuracy on the test images."""

    arm: str
    labels: float

    def __str__(self) -> str:
        difference, interval = self.difference, self.difference.interval
        spread = f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})" if interval else ""
        labels = f"{self.labels:g} a class" if self.labels > 1 else f"{100 * self.labels:g} %"
        return (
            f"{self.arm} at {labels} of the labels, {100 * difference.value:+.1f} points of "
            f"accuracy{spread}, {self.outcome}"
        )


class Reach(Section):
    """Where something is reached: ends of an interval of it."""

    low: float | None
    high: float | None
    """Null: nowhere."""
    level: float = LEVEL


class Match(Section):
    """How many labels scratch needs for what an arm gets from fewer."""

    arm: str
    images: int
    """That the arm trains on."""
    scratch_images: float | None
    """Interpolated, accuracy over the logarithm of the number; null: scratch never gets there."""
    at_least: int | None
    """Then a lower bound: all there are."""
    interval: Reach | None
    """Of `scratch_images`; null: too few seeds."""
    outcome: Outcome
    """`better`: scratch is shown to need more labels than the arm."""


class Plateau(Section):
    """When an arm reaches scratch's best validation accuracy, at the largest budget."""

    arm: str
    reached: int
    """Seeds that do, of all."""
    epochs: float | None
    """Median over the seeds; null: most never do."""
    interval: Reach | None
    """Of `epochs`, over seeds alone; null: too few of them."""
    images: float | None
    """Images seen until then."""
    seconds: float | None
    """Until then, activations kept already."""
    cold_seconds: float | None
    """The same, with the trunk's activations computed first."""
    outcome: Outcome
    """`better`: shown to see fewer images than scratch until then."""


@dataclass(frozen=True)
class Sampler:
    """Bootstrap draws of seeds and images, the same for whatever is compared."""

    seeds: NDArray[np.int64]
    """(RESAMPLES, seeds)."""
    images: NDArray[np.int64]
    """(RESAMPLES, images)."""

    @classmethod
    def of(cls, seeds: int, images: int) -> "Sampler | None":
        """Return the draws; None for too few seeds."""
        if seeds < LEAST_SEEDS:
            return None
        random = np.random.default_rng(0)
        return cls(
            random.integers(0, seeds, (RESAMPLES, seeds)),
            random.integers(0, images, (RESAMPLES, images)),
        )

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each draw's mean of values (seeds, images), or (seeds,): (RESAMPLES,)."""
        if values.ndim == 1:
            found: NDArray[np.float64] = values[self.seeds].mean(axis=1)
            return found
        draws = zip(self.seeds, self.images, strict=True)
        return np.array([values[seeds].mean(axis=0)[images].mean() for seeds, images in draws])


@dataclass(frozen=True)
class Drawn:
    """A figure with all draws of it."""

    value: float
    seeds: NDArray[np.float64]
    """Each seed's own: (seeds,)."""
    draws: NDArray[np.float64] | None
    """(RESAMPLES,); None: too few seeds."""

    @classmethod
    def mean(cls, values: NDArray[np.float64], sampler: Sampler | None) -> "Drawn":
        """Return the mean of values (seeds, images), or (seeds,)."""
        return cls(
            value=float(values.mean()),
            seeds=values.reshape(len(values), -1).mean(axis=1),
            draws=sampler.means(values) if sampler else None,
        )

    def __sub__(self, other: "Drawn") -> "Drawn":
        draws = None
        if self.draws is not None and other.draws is not None:
            draws = self.draws - other.draws  # the same seeds and images: paired
        return Drawn(self.value - other.value, self.seeds - other.seeds, draws)

    @property
    def estimate(self) -> Estimate:
        """The figure with its interval."""
        interval = None
        if self.draws is not None:
            low, high = ends(self.draws)
            interval = Interval(low=low, high=high)
        return Estimate(value=self.value, interval=interval, seeds=tuple(self.seeds.tolist()))


Accuracies = Mapping[Budget, Drawn]
"""On the test images, by arm and budget."""


def ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the interval of a bootstrap's draws; they may be infinite."""
    ordered, out = np.sort(draws), math.floor((1 - LEVEL) / 2 * (len(draws) - 1))
    return float(ordered[out]), float(ordered[-1 - out])


def outcome_of(difference: Estimate, *, less: bool = False) -> Outcome:
    """Return what a difference shows; `less`: whether less is better."""
    interval = difference.interval
    if interval is None or interval.low <= 0 <= interval.high:
        return "not shown"
    return "better" if (interval.low > 0) != less else "worse"


def versus(own: Drawn, scratch: Drawn, *, less: bool = False) -> Versus:
    """Return how a figure of an arm differs from scratch's; `less`: whether less is better."""
    difference = (own - scratch).estimate
    return Versus(difference=difference, outcome=outcome_of(difference, less=less))


def gains(accuracy: Accuracies, labels: Sequence[float]) -> list[Gain]:
    """Return what every arm but scratch gains over scratch, at every budget."""
    return [
        Gain(
            arm=arm,
            labels=budget,
            **dict(versus(accuracy[Budget(arm, budget)], accuracy[Budget("scratch", budget)])),
        )
        for arm in ARMS[1:]
        for budget in labels
    ]


def matches(
    accuracy: Accuracies, labels: Sequence[float], images: Mapping[float, int]
) -> list[Match]:
    """Return for each arm and budget how many labels scratch needs for the same accuracy.

    Args:
        accuracy: by arm and budget.
        labels: the budgets, ascending.
        images: training images of each.
    """
    sizes = [images[one] for one in labels]
    scratch = [accuracy[Budget("scratch", one)] for one in labels]
    found = []
    for arm in ARMS[1:]:
        for labelled in labels:
            own, wanted = images[labelled], accuracy[Budget(arm, labelled)]
            needed = _reaches(sizes, [one.value for one in scratch], wanted.value)
            interval, outcome = None, _NOT_SHOWN
            if wanted.draws is not None:
                curves = np.stack([one.draws for one in scratch if one.draws is not None], axis=1)
                goals = zip(curves, wanted.draws, strict=True)
                low, high = ends(np.array([_reaches(sizes, *one) for one in goals]))
                interval = Reach(low=_finite(low), high=_finite(high))
                outcome = "better" if low > own else "worse" if high < own else _NOT_SHOWN
            found.append(
                Match(
                    arm=arm,
                    images=own,
                    scratch_images=_finite(needed),
                    at_least=None if math.isfinite(needed) else sizes[-1],
                    interval=interval,
                    outcome=outcome,
                )
            )
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _reaches(images: Sequence[int], accuracies: Iterable[float], wanted: float) -> float:
    """Return where a curve of accuracies over images first reaches one; infinity: nowhere."""
    before: tuple[int, float] | None = None
    for count, accuracy in zip(images, accuracies, strict=True):
        if accuracy >= wanted:
            if before is None:
                return float(count)
            fewer, less = before
            part = (wanted - less) / (accuracy - less)
            return math.exp(math.log(fewer) + part * (math.log(count) - math.log(fewer)))
        before = count, accuracy
    return math.inf


def plateau(
    arm: str,
    curves: Sequence[Sequence[float]],
    scratch: Sequence[Sequence[float]],
    images: int,
    epoch_s: float,
    cold_s: float,
    sampler: Sampler | None,
) -> Plateau:
    """Return when an arm reaches scratch's best.

    Args:
        arm: its name.
        curves: by seed, validation accuracy after each epoch.
        scratch: the same of scratch.
        images: that an epoch trains on.
        epoch_s: seconds of an epoch, activations kept.
        cold_s: seconds to compute them first; 0 where nothing is frozen.
        sampler: draws; None for too few seeds.
    """
    goals = [max(curve) for curve in scratch]
    epochs = np.array([_first(curve, goal) for curve, goal in zip(curves, goals, strict=True)])
    own = np.array([_first(curve, goal) for curve, goal in zip(scratch, goals, strict=True)])
    median = _finite(_median(epochs))
    interval, outcome = None, _NOT_SHOWN
    if sampler:
        low, high = ends(np.array([_median(epochs[draw]) for draw in sampler.seeds]))
        interval = Reach(low=_finite(low), high=_finite(high))
        low, high = ends(np.array([_median((epochs - own)[draw]) for draw in sampler.seeds]))
        outcome = "better" if high < 0 else "worse" if low > 0 else _NOT_SHOWN
    return Plateau(
        arm=arm,
        reached=int(np.isfinite(epochs).sum()),
        epochs=median,
        interval=interval,
        images=None if median is None else median * images,
        seconds=None if median is None else median * epoch_s,
        cold_seconds=None if median is None else median * epoch_s + cold_s,
        outcome=outcome,
    )


def _first(curve: Sequence[float], goal: float) -> float:
    """Return the first epoch (from 1) at which a curve reaches a goal; infinity: none."""
    return next((float(epoch) for epoch, one in enumerate(curve, 1) if one >= goal), math.inf)


def _median(values: NDArray[np.float64]) -> float:
    """Return the median, of an even number the upper one: half-way to infinity is nowhere."""
    return float(np.sort(values)[len(values) // 2])
