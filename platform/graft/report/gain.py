"""What transfer bought: from the predictions of a designed experiment to its answers; pure.

Intervals are percentiles of a bootstrap that draws seeds and test images anew, the same draw for
all arms, so that differences are paired. Where an interval contains nothing, nothing is shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.registry import Outcome
from graft.report.design import ARMS, Budget
from graft.report.scores import LEVEL, Interval
from graft.spec import Section

RESAMPLES = 2_000
LEAST_SEEDS = 5
"""With fewer, no interval is claimed."""

Right = Mapping[Budget, NDArray[np.float64]]
"""By arm and budget: (seeds, images), 1 where the test image was predicted right."""


class Estimate(Section):
    """A mean over seeds."""

    value: float
    interval: Interval | None
    """Null: too few seeds."""
    seeds: tuple[float, ...]
    """Each seed's own."""


class Gain(Section):
    """What an arm gains over scratch at one label budget, in accuracy on the test images."""

    arm: str
    labels: float
    difference: Estimate
    outcome: Outcome
    """What is shown of the arm."""

    def __str__(self) -> str:
        difference, interval = self.difference, self.difference.interval
        spread = f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})" if interval else ""
        labels = f"{self.labels:g} a class" if self.labels > 1 else f"{100 * self.labels:g} %"
        return (
            f"{self.arm} at {labels} of the labels, {100 * difference.value:+.1f} points of "
            f"accuracy{spread}, {self.outcome}"
        )


class Match(Section):
    """How many labels scratch needs for what an arm gets from fewer."""

    arm: str
    images: int
    """That the arm trains on."""
    scratch_images: float | None
    """Interpolated, accuracy over the logarithm of the number; null: scratch never gets there."""
    at_least: int | None
    """Then a lower bound: all there are."""


class Plateau(Section):
    """When an arm reaches scratch's best validation accuracy, at the largest budget."""

    arm: str
    reached: int
    """Seeds that do, of all."""
    epochs: float | None
    """Mean over those; null: none."""
    images: float | None
    """Images seen until then."""
    seconds: float | None
    """Until then, activations kept already."""
    cold_seconds: float | None
    """The same, with the trunk's activations computed first."""


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

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Return the interval of the mean of values (seeds, images)."""
        means = np.empty(len(self.seeds))
        for number, (seeds, images) in enumerate(zip(self.seeds, self.images, strict=True)):
            means[number] = values[seeds].mean(axis=0)[images].mean()
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(low=float(low), high=float(high))


def estimate(values: NDArray[np.float64], sampler: Sampler | None) -> Estimate:
    """Return the mean of values (seeds, images), with its interval where there can be one."""
    return Estimate(
        value=float(values.mean()),
        interval=sampler.interval(values) if sampler else None,
        seeds=tuple(float(mean) for mean in values.mean(axis=1)),
    )


def outcome_of(difference: Estimate) -> Outcome:
    """Return what a difference shows."""
    if difference.interval is None:
        return "not shown"
    if difference.interval.low > 0:
        return "better"
    return "worse" if difference.interval.high < 0 else "not shown"


def gains(right: Right, labels: Sequence[float], sampler: Sampler | None) -> list[Gain]:
    """Return what every arm but scratch gains over scratch, at every budget."""
    found = []
    for arm in ARMS[1:]:
        for budget in labels:
            values = right[Budget(arm, budget)] - right[Budget("scratch", budget)]
            difference = estimate(values, sampler)
            found.append(
                Gain(arm=arm, labels=budget, difference=difference, outcome=outcome_of(difference))
            )
    return found


def matches(
    accuracies: Mapping[Budget, float], labels: Sequence[float], images: Mapping[float, int]
) -> list[Match]:
    """Return for each arm and budget how many labels scratch needs for the same accuracy.

    Args:
        accuracies: means, by arm and budget.
        labels: the budgets, ascending.
        images: training images of each.
    """
    scratch = [(images[one], accuracies[Budget("scratch", one)]) for one in labels]
    found = []
    for arm in ARMS[1:]:
        for budget in labels:
            needed = _reaches(scratch, accuracies[Budget(arm, budget)])
            found.append(
                Match(
                    arm=arm,
                    images=images[budget],
                    scratch_images=needed,
                    at_least=scratch[-1][0] if needed is None else None,
                )
            )
    return found


def _reaches(curve: Sequence[tuple[int, float]], wanted: float) -> float | None:
    """Return where a curve (images, accuracy) first reaches an accuracy; None: nowhere."""
    for place, (images, accuracy) in enumerate(curve):
        if accuracy >= wanted:
            if place == 0:
                return float(images)
            fewer, less = curve[place - 1]
            part = (wanted - less) / (accuracy - less)
            return math.exp(math.log(fewer) + part * (math.log(images) - math.log(fewer)))
    return None


def plateau(
    arm: str,
    curves: Sequence[Sequence[float]],
    goals: Sequence[float],
    images: int,
    epoch_s: float,
    cold_s: float,
) -> Plateau:
    """Return when an arm reaches scratch's best.

    Args:
        arm: its name.
        curves: by seed, validation accuracy after each epoch.
        goals: by seed, scratch's best.
        images: that an epoch trains on.
        epoch_s: seconds of an epoch, activations kept.
        cold_s: seconds to compute them first; 0 where nothing is frozen.
    """
    reached = [
        next(number for number, value in enumerate(curve, 1) if value >= goal)
        for curve, goal in zip(curves, goals, strict=True)
        if max(curve) >= goal
    ]
    epochs = sum(reached) / len(reached) if reached else None
    return Plateau(
        arm=arm,
        reached=len(reached),
        epochs=epochs,
        images=None if epochs is None else epochs * images,
        seconds=None if epochs is None else epochs * epoch_s,
        cold_seconds=None if epochs is None else epochs * epoch_s + cold_s,
    )
