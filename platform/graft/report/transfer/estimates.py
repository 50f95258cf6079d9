"""The figures of a transfer report with their intervals: from predictions of test images; pure.

What is estimated is what is expected of new seeds and new images. Intervals and p-values are those
of `two_way`, those of accuracies alone of `share_interval`; arms are compared in pairs, by seed and
image. Where several comparisons are made of one kind, p-values are corrected for their
number, and these alone decide what is shown.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, quantile_test

from graft.registry import Outcome
from graft.report.interval import LEVEL, Interval
from graft.report.share_interval import ShareMean
from graft.report.transfer.design import ARMS, Condition, label_budget
from graft.report.two_way import DIFFERENCE, LEAST_SEEDS, SHARE, TwoWay, holm, moments, two_way
from graft.spec import Labels, Section

GRID = 16
"""Points between two label budgets at which scratch's curve is compared with an arm."""


class Estimate(Section):
    """A figure of one arm, or a difference of two."""

    value: float
    interval: Interval | None
    """Of this figure alone; null: too few seeds, or none is claimed of such a figure."""
    seeds: tuple[float, ...]
    """The figure of each seed alone."""


class Versus(Section):
    """One figure of an arm against scratch's."""

    difference: Estimate
    """The arm's figure minus scratch's."""
    p_value: float | None = None
    """Two-sided, corrected for all comparisons of its kind (Holm); null: nothing was tested."""
    outcome: Outcome
    """What is shown of the arm, by `p_value`."""


class Gain(Versus):
    """What an arm gains over scratch at one label budget, in accuracy on the test images."""

    arm: str
    labels: Labels

    def __str__(self) -> str:
        p_value = "" if self.p_value is None else f", Holm's p {self.p_value:.2g}"
        return (
            f"{self.arm} at {label_budget(self.labels)} of the labels, "
            f"{100 * self.difference.value:+.1f} points of accuracy{in_brackets(self.difference)}"
            f"{p_value}, {self.outcome}"
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
    """Labelled images of the arm: those that it trains on and, but for reports of earlier releases,
    those by which its epoch and rate were chosen."""
    scratch_images: float | None
    """Labelled images, counted alike, at which scratch is as accurate, interpolated over the
    logarithm of their number; null: scratch never is."""
    at_least: int | None
    """Where scratch never is: a lower bound, which is all images."""
    interval: Reach | None
    """Of `scratch_images`: the label counts at which scratch is not shown to differ from the arm;
    null: too few seeds."""
    outcome: Outcome
    """`better`: scratch is shown to need more labels than the arm, since with as many it is shown
    to be less accurate: the outcome of the arm's gain."""


class Plateau(Section):
    """When an arm reaches scratch's best validation accuracy, at the largest budget."""

    arm: str
    reached: int
    """Number of seeds that reach it."""
    epochs: float | None
    """Epochs until then, the median over the seeds; null: most never reach it."""
    interval: Reach | None
    """Of `epochs`, over seeds alone; null: fewer than six seeds."""
    images: float | None
    """Images seen until then."""
    seconds: float | None
    """Seconds until then, with activations cached before: `epochs` of the seconds that one takes
    alone, without set-up. Reports of earlier releases mix shares of trainings side by side with
    trainings that include their set-up."""
    cold_seconds: float | None
    """Seconds until then, with an empty cache."""
    p_value: float | None = None
    """Of a sign test over the seeds, two-sided, corrected for all arms (Holm)."""
    outcome: Outcome
    """`better`: the arm is shown to see fewer images than scratch until then."""


@dataclass(frozen=True)
class Crossed:
    """A figure as it is of every seed and test image."""

    values: NDArray[np.float64]
    """(seeds, images)."""
    pseudo: tuple[float, ...] = SHARE
    """`SHARE`, or `DIFFERENCE` of two."""

    @property
    def value(self) -> float:
        """The figure: the mean over seeds and images."""
        return float(self.values.mean())

    @property
    def two_way(self) -> TwoWay | None:
        """The mean and its variance; None: too few seeds."""
        return two_way(self.values, self.pseudo) if len(self.values) >= LEAST_SEEDS else None

    def __sub__(self, other: "Crossed") -> "Crossed":
        return Crossed(self.values - other.values, DIFFERENCE)

    @property
    def estimate(self) -> Estimate:
        """The figure with its interval."""
        by_seed = tuple(self.values.mean(axis=1).tolist())
        return Estimate(value=self.value, interval=self._interval, seeds=by_seed)

    @property
    def _interval(self) -> Interval | None:
        mean = self.two_way
        if mean is None:
            return None
        if self.pseudo == SHARE:
            low, high = ShareMean(*moments(self.values), self.values.shape[1]).ends()
            return Interval(low=min(float(low), self.value), high=max(float(high), self.value))
        half, least, most = mean.half_width(), min(self.pseudo), max(self.pseudo)
        return Interval(low=max(least, mean.mean - half), high=min(most, mean.mean + half))


Accuracies = Mapping[Condition, Crossed]
"""Accuracy on the test images, by arm and budget."""
Curves = Sequence[Sequence[float]]
"""Validation accuracy after each epoch, by seed."""


@dataclass(frozen=True)
class TrainingCost:
    """What training takes at the largest budget."""

    images: int
    """Images that an epoch trains on."""
    epoch_s: float
    """Seconds of an epoch alone, without set-up, with the trunk's activations cached."""
    cold_s: float
    """Seconds to compute these activations; 0 where no stage is frozen."""


def in_brackets(difference: Estimate) -> str:
    """Return the interval of a difference in points, with a space before it; empty for none."""
    interval = difference.interval
    return f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})" if interval else ""


def compare_all(differences: Sequence[Crossed], less: Sequence[bool] | None = None) -> list[Versus]:
    """Return what a family of differences shows; `less`: of which of them less is better."""
    estimates = [difference.estimate for difference in differences]
    means = [mean for difference in differences if (mean := difference.two_way)]
    if not means:
        return [Versus(difference=estimate, outcome="not shown") for estimate in estimates]
    corrected = holm([mean.p_value() for mean in means])
    return [
        Versus(
            difference=estimate,
            p_value=p_value,
            outcome=outcome_of(p_value, estimate.value, less=lower),
        )
        for estimate, p_value, lower in zip(
            estimates, corrected, less or [False] * len(estimates), strict=True
        )
    ]


def outcome_of(p_value: float, difference: float, *, less: bool = False) -> Outcome:
    """Return what a difference of this p-value shows; `less`: whether less is better."""
    if p_value >= 1 - LEVEL:
        return "not shown"
    return "better" if (difference > 0) != less else "worse"


def gains(accuracy: Accuracies, labels: Sequence[Labels]) -> list[Gain]:
    """Return what every arm but scratch gains over scratch, at every budget: one family."""
    conditions = [Condition(arm, budget) for arm in ARMS[1:] for budget in labels]
    differences = [accuracy[c] - accuracy[Condition("scratch", c.labels)] for c in conditions]
    return [
        Gain(arm=condition.arm, labels=condition.labels, **dict(versus))
        for condition, versus in zip(conditions, compare_all(differences), strict=True)
    ]


def matches(
    accuracy: Accuracies, gained: Iterable[Gain], labelled: Mapping[float, int]
) -> list[Match]:
    """Return for each arm and budget how many labels scratch needs for the same accuracy.

    Args:
        accuracy: by arm and budget.
        gained: of every arm and budget.
        labelled: number of labelled images at each budget, ascending.
    """
    sizes = list(labelled.values())
    scratch = [accuracy[Condition("scratch", budget)] for budget in labelled]
    return [
        _match(
            gain, labelled[gain.labels], accuracy[Condition(gain.arm, gain.labels)], sizes, scratch
        )
        for gain in gained
    ]


def _match(
    gain: Gain, images: int, goal: Crossed, sizes: Sequence[int], scratch: Sequence[Crossed]
) -> Match:
    """Return how many labels scratch, of these accuracies at these sizes, needs for a goal."""
    needed = _reaches(sizes, [accuracy.value for accuracy in scratch], goal.value)
    claimed = gain.difference.interval is not None
    return Match(
        arm=gain.arm,
        images=images,
        scratch_images=_finite(needed),
        at_least=None if math.isfinite(needed) else sizes[-1],
        interval=Reach.between(*_reach_ends(sizes, scratch, goal)) if claimed else None,
        outcome=gain.outcome,
    )


def _reach_ends(
    sizes: Sequence[int], scratch: Sequence[Crossed], goal: Crossed
) -> tuple[float, float]:
    """Return the ends of the interval of where scratch reaches a goal; infinity: nowhere.

    It holds the sizes at which a test does not tell scratch's accuracy, interpolated, from the
    goal (Fieller, JRSS B 16, 1954): from the first at which scratch is not shown to be below, to
    the first at which it is shown to be above.
    """
    low = math.inf
    for size, accuracy in _curve(sizes, scratch):
        mean = (accuracy - goal).two_way
        below, shown = not mean or mean.mean < 0, mean and mean.p_value() < 1 - LEVEL
        if not (below and shown):
            low = min(low, size)
        if shown and not below:
            return low, size
    return low, math.inf


def _curve(sizes: Sequence[int], scratch: Sequence[Crossed]) -> Iterator[tuple[float, Crossed]]:
    """Yield points of scratch's curve: linear between budgets, over the logarithm of sizes."""
    for place in range(len(sizes) - 1):
        for part in np.arange(GRID) / GRID:
            size = math.exp((1 - part) * math.log(sizes[place]) + part * math.log(sizes[place + 1]))
            mixed = (1 - part) * scratch[place].values + part * scratch[place + 1].values
            yield size, Crossed(mixed)
    yield float(sizes[-1]), scratch[-1]


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


def plateaus(curves: Mapping[str, Curves], costs: Mapping[str, TrainingCost]) -> list[Plateau]:
    """Return when each arm reaches scratch's best accuracy, seed by seed.

    Intervals of a median, and the sign test, hold for a few seeds of any distribution, and ask for
    six of them at least.

    Args:
        curves: of every arm, scratch among them.
        costs: of every arm.
    """
    goals = [max(curve) for curve in curves["scratch"]]
    epochs = {
        arm: np.array([_first(*seed) for seed in zip(by_seed, goals, strict=True)])
        for arm, by_seed in curves.items()
    }
    others = [arm for arm in epochs if arm != "scratch"]
    later = {arm: epochs[arm] - epochs["scratch"] for arm in others}
    corrected = dict(zip(others, holm([_sign_test(later[arm]) for arm in others]), strict=True))
    return [
        _plateau(
            arm,
            by_seed,
            costs[arm],
            corrected.get(arm),
            outcome_of(corrected[arm], _median(later[arm]), less=True)
            if arm in corrected
            else "not shown",
        )
        for arm, by_seed in epochs.items()
    ]


def _plateau(
    arm: str,
    epochs: NDArray[np.float64],
    cost: TrainingCost,
    p_value: float | None,
    outcome: Outcome,
) -> Plateau:
    median = _median(epochs)
    low, high = quantile_test(epochs, p=0.5).confidence_interval(LEVEL)
    claimed = not (math.isnan(low) or math.isnan(high))
    seconds = median * cost.epoch_s
    return Plateau(
        arm=arm,
        reached=int(np.isfinite(epochs).sum()),
        epochs=_finite(median),
        interval=Reach.between(float(low), float(high)) if claimed else None,
        images=_finite(median * cost.images),
        seconds=_finite(seconds),
        cold_seconds=_finite(seconds + cost.cold_s),
        p_value=p_value,
        outcome=outcome,
    )


def _first(curve: Sequence[float], goal: float) -> float:
    """Return the first epoch (from 1) at which a curve reaches a goal; infinity: none."""
    return next(
        (float(epoch) for epoch, accuracy in enumerate(curve, 1) if accuracy >= goal), math.inf
    )


def _sign_test(differences: NDArray[np.float64]) -> float:
    """Return the p-value of differences, one a seed, that are as often above 0 as below."""
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def _median(values: NDArray[np.float64]) -> float:
    """Return the median; of an even number the upper one, for half-way to infinity is nowhere."""
    return float(np.sort(values)[len(values) // 2])
