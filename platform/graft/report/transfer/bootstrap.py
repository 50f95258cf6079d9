"""The figures of a transfer report with their intervals: from predictions of test images; pure.

Intervals are percentiles of a bootstrap that resamples seeds and test images, the same resamples
for all arms, so that differences are paired. Where an interval holds 0, nothing is shown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.registry import Outcome
from graft.report.interval import LEVEL, Interval
from graft.report.transfer.design import ARMS, Condition, label_budget
from graft.spec import Section

RESAMPLES = 2_000
_NOT_SHOWN: Outcome = "not shown"
LEAST_SEEDS = 5
"""With fewer seeds, no interval is claimed."""


class Estimate(Section):
    """A figure of one arm, or a difference of two."""

    value: float
    interval: Interval | None
    """null: too few seeds."""
    seeds: tuple[float, ...]
    """The figure of each seed alone."""


class Versus(Section):
    """One figure of an arm against scratch's."""

    difference: Estimate
    """The arm's figure minus scratch's."""
    outcome: Outcome
    """What is shown of the arm."""


class Gain(Versus):
    """What an arm gains over scratch at one label budget, in accuracy on the test images."""

    arm: str
    labels: float

    def __str__(self) -> str:
        return (
            f"{self.arm} at {label_budget(self.labels)} of the labels, "
            f"{100 * self.difference.value:+.1f} points of accuracy{in_brackets(self.difference)}, "
            f"{self.outcome}"
        )


class Reach(Section):
    """Interval of where a curve reaches a goal; both ends may lie beyond the curve."""

    low: float | None
    """null: nowhere on the curve."""
    high: float | None
    """null: nowhere on the curve."""
    level: float = LEVEL

    @classmethod
    def between(cls, low: float, high: float) -> "Reach":
        """Return the interval with these ends, of which infinity is nowhere."""
        return cls(low=_finite(low), high=_finite(high))


class Match(Section):
    """How many labels scratch needs for the accuracy that an arm has with its own."""

    arm: str
    images: int
    """Training images of the arm."""
    scratch_images: float | None
    """Training images at which scratch is as accurate, interpolated over the logarithm of their
    number; null: scratch never is."""
    at_least: int | None
    """Where scratch never is: a lower bound, which is all images."""
    interval: Reach | None
    """Of `scratch_images`; null: too few seeds."""
    outcome: Outcome
    """`better`: scratch is shown to need more labels than the arm."""


class Plateau(Section):
    """When an arm reaches scratch's best validation accuracy, at the largest budget."""

    arm: str
    reached: int
    """Number of seeds that reach it."""
    epochs: float | None
    """Epochs until then, the median over the seeds; null: most never reach it."""
    interval: Reach | None
    """Of `epochs`, over seeds alone; null: too few seeds."""
    images: float | None
    """Images seen until then."""
    seconds: float | None
    """Seconds until then, with the trunk's activations cached before."""
    cold_seconds: float | None
    """Seconds until then, with an empty cache."""
    outcome: Outcome
    """`better`: the arm is shown to see fewer images than scratch until then."""


@dataclass(frozen=True)
class Resampler:
    """Bootstrap resamples of seeds and of images, the same for all figures of a report."""

    seeds: NDArray[np.int64]
    """Positions of seeds: (RESAMPLES, seeds)."""
    images: NDArray[np.int64]
    """Positions of test images: (RESAMPLES, images)."""

    @classmethod
    def of(cls, seeds: int, images: int) -> "Resampler | None":
        """Return the resamples of so many seeds and images; None for too few seeds."""
        if seeds < LEAST_SEEDS:
            return None
        random = np.random.default_rng(0)
        return cls(
            random.integers(0, seeds, (RESAMPLES, seeds)),
            random.integers(0, images, (RESAMPLES, images)),
        )

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of each resample of values (seeds, images), or (seeds,): (RESAMPLES,)."""
        if values.ndim == 1:
            means: NDArray[np.float64] = values[self.seeds].mean(axis=1)
            return means
        resamples = zip(self.seeds, self.images, strict=True)
        return np.array([values[seeds].mean(axis=0)[images].mean() for seeds, images in resamples])


@dataclass(frozen=True)
class Resampled:
    """A figure with its value in every resample."""

    value: float
    seeds: NDArray[np.float64]
    """The figure of each seed alone: (seeds,)."""
    draws: NDArray[np.float64] | None
    """The figure of each resample: (RESAMPLES,); None: too few seeds."""

    @classmethod
    def mean(cls, values: NDArray[np.float64], resampler: Resampler | None) -> "Resampled":
        """Return the mean of values (seeds, images), or (seeds,)."""
        return cls(
            value=float(values.mean()),
            seeds=values.reshape(len(values), -1).mean(axis=1),
            draws=resampler.means(values) if resampler else None,
        )

    def __sub__(self, other: "Resampled") -> "Resampled":
        draws = None
        if self.draws is not None and other.draws is not None:
            draws = self.draws - other.draws  # of the same seeds and images: paired
        return Resampled(self.value - other.value, self.seeds - other.seeds, draws)

    @property
    def estimate(self) -> Estimate:
        """The figure with its interval."""
        interval = None
        if self.draws is not None:
            low, high = ends(self.draws)
            interval = Interval(low=low, high=high)
        return Estimate(value=self.value, interval=interval, seeds=tuple(self.seeds.tolist()))


Accuracies = Mapping[Condition, Resampled]
"""Accuracy on the test images, by arm and budget."""
Curves = Sequence[Sequence[float]]
"""Validation accuracy after each epoch, by seed."""


@dataclass(frozen=True)
class TrainingCost:
    """What training takes at the largest budget."""

    images: int
    """Images that an epoch trains on."""
    epoch_s: float
    """Seconds of an epoch, with the trunk's activations cached."""
    cold_s: float
    """Seconds to compute these activations; 0 where no stage is frozen."""


def in_brackets(difference: Estimate) -> str:
    """Return the interval of a difference in points, with a space before it; empty for none."""
    interval = difference.interval
    return f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})" if interval else ""


def ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the interval of a figure's resamples; they may be infinite."""
    ordered, out = np.sort(draws), math.floor((1 - LEVEL) / 2 * (len(draws) - 1))
    return float(ordered[out]), float(ordered[-1 - out])


def outcome_of(difference: Estimate, *, less: bool = False) -> Outcome:
    """Return what a difference shows; `less`: whether less is better."""
    interval = difference.interval
    return _shown(interval.low, interval.high, less=less) if interval else "not shown"


def _shown(low: float, high: float, limit: float = 0, *, less: bool = False) -> Outcome:
    """Return what an interval shows that lies above a limit, below it, or around it."""
    if low <= limit <= high:
        return "not shown"
    return "better" if (low > limit) != less else "worse"


def versus(figure: Resampled, scratch: Resampled, *, less: bool = False) -> Versus:
    """Return how a figure of an arm differs from scratch's; `less`: whether less is better."""
    difference = (figure - scratch).estimate
    return Versus(difference=difference, outcome=outcome_of(difference, less=less))


def gains(accuracy: Accuracies, labels: Sequence[float]) -> list[Gain]:
    """Return what every arm but scratch gains over scratch, at every budget."""
    return [
        Gain(
            arm=arm,
            labels=budget,
            **dict(
                versus(accuracy[Condition(arm, budget)], accuracy[Condition("scratch", budget)])
            ),
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
        images: number of training images at each budget.
    """
    sizes = [images[budget] for budget in labels]
    scratch = [accuracy[Condition("scratch", budget)] for budget in labels]
    return [
        _match(arm, images[budget], accuracy[Condition(arm, budget)], sizes, scratch)
        for arm in ARMS[1:]
        for budget in labels
    ]


def _match(
    arm: str, images: int, goal: Resampled, sizes: Sequence[int], scratch: Sequence[Resampled]
) -> Match:
    """Return how many labels scratch, of these accuracies at these sizes, needs for a goal."""
    needed = _reaches(sizes, [accuracy.value for accuracy in scratch], goal.value)
    interval, outcome = None, _NOT_SHOWN
    if goal.draws is not None:
        draws = [accuracy.draws for accuracy in scratch if accuracy.draws is not None]
        resamples = zip(np.stack(draws, axis=1), goal.draws, strict=True)
        low, high = ends(np.array([_reaches(sizes, *resample) for resample in resamples]))
        interval, outcome = Reach.between(low, high), _shown(low, high, images)
    return Match(
        arm=arm,
        images=images,
        scratch_images=_finite(needed),
        at_least=None if math.isfinite(needed) else sizes[-1],
        interval=interval,
        outcome=outcome,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _reaches(images: Sequence[int], accuracies: Iterable[float], goal: float) -> float:
    """Return where a curve of accuracies over images first reaches a goal; infinity: nowhere."""
    before: tuple[int, float] | None = None
    for count, accuracy in zip(images, accuracies, strict=True):
        if accuracy >= goal:
            if before is None:
                return float(count)
            fewer, less = before
            part = (goal - less) / (accuracy - less)
            return math.exp(math.log(fewer) + part * (math.log(count) - math.log(fewer)))
        before = count, accuracy
    return math.inf


def plateau(
    arm: str, curves: Curves, scratch: Curves, cost: TrainingCost, resampler: Resampler | None
) -> Plateau:
    """Return when an arm reaches scratch's best accuracy, seed by seed.

    Args:
        arm: its name.
        curves: of the arm.
        scratch: the curves of scratch.
        cost: of the arm.
        resampler: None for too few seeds.
    """
    goals = [max(curve) for curve in scratch]
    epochs, scratch_epochs = (
        np.array([_first(curve, goal) for curve, goal in zip(by_seed, goals, strict=True)])
        for by_seed in (curves, scratch)
    )
    median = _median(epochs)
    interval, outcome = None, _NOT_SHOWN
    if resampler:
        interval = Reach.between(*_median_ends(epochs, resampler))
        outcome = _shown(*_median_ends(epochs - scratch_epochs, resampler), less=True)
    seconds = median * cost.epoch_s
    return Plateau(
        arm=arm,
        reached=int(np.isfinite(epochs).sum()),
        epochs=_finite(median),
        interval=interval,
        images=_finite(median * cost.images),
        seconds=_finite(seconds),
        cold_seconds=_finite(seconds + cost.cold_s),
        outcome=outcome,
    )


def _first(curve: Sequence[float], goal: float) -> float:
    """Return the first epoch (from 1) at which a curve reaches a goal; infinity: none."""
    return next(
        (float(epoch) for epoch, accuracy in enumerate(curve, 1) if accuracy >= goal), math.inf
    )


def _median_ends(values: NDArray[np.float64], resampler: Resampler) -> tuple[float, float]:
    """Return the ends of the interval of the median of values, one a seed: (seeds,)."""
    return ends(np.array([_median(values[seeds]) for seeds in resampler.seeds]))


def _median(values: NDArray[np.float64]) -> float:
    """Return the median; of an even number the upper one, for half-way to infinity is nowhere."""
    return float(np.sort(values)[len(values) // 2])
