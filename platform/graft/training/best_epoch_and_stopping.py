"""Which epoch is best, and what ends training before its last epoch.

Runs and trials follow one rule: epochs are compared by the metric of the recipe, `train.metric`,
which in a trial is its sweep's `search.metric`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from graft.errors import RunFailed
from graft.spec import METRICS, Train


class EpochMetrics(Protocol):
    """A finished epoch of a run or of a trial."""

    @property
    def epoch(self) -> int:
        """Its number, from 1."""

    @property
    def val(self) -> Mapping[str, Any]:
        """Validation metrics by name; `loss` is always among them."""


AnyEpoch = TypeVar("AnyEpoch", bound=EpochMetrics)
DEFAULT_METRIC = "val.accuracy"
"""What epochs are compared by where the recipe does not say."""


@dataclass(frozen=True)
class Criterion:
    """What epochs are compared by: the maximum or the minimum of a validation metric.

    Of two epochs with the same value, the one of lower validation loss is better.
    """

    metric: str
    """`accuracy`, or `val.accuracy` as sweeps write it."""
    mode: str
    """`max` or `min`."""

    @classmethod
    def of(cls, train: Train) -> Self:
        """Return what a recipe compares its epochs by."""
        metric = train.metric or DEFAULT_METRIC
        return cls(metric, METRICS[metric])

    @property
    def name(self) -> str:
        """The metric's name within `val`."""
        return self.metric.removeprefix("val.")

    def score(self, epoch: EpochMetrics) -> tuple[float, float]:
        """Return what an epoch is sorted by; the better epoch has the greater score."""
        value = epoch.val[self.name]
        return (value if self.mode == "max" else -value), -epoch.val["loss"]

    def better(self, epoch: EpochMetrics, than: EpochMetrics | None) -> bool:
        """Whether an epoch is better than the best one before it, None where there is none."""
        if than is None or self.name not in epoch.val:
            return than is None
        return self.score(epoch) > self.score(than)

    def best(self, epochs: Iterable[AnyEpoch]) -> AnyEpoch | None:
        """Return the best epoch, the first of equal ones; None where none has the metric."""
        measured = [epoch for epoch in epochs if self.name in epoch.val]
        return max(measured, key=lambda epoch: (*self.score(epoch), -epoch.epoch), default=None)


def not_finite(epoch: int, train: Mapping[str, Any], val: Mapping[str, Any]) -> str | None:
    """Return which metric of an epoch shows that training diverged; None where all are finite.

    Matrices and values by class are not looked at.
    """
    for part, metrics in (("train", train), ("val", val)):
        for name, value in metrics.items():
            if isinstance(value, int | float) and not math.isfinite(value):
                return f"{part} {name} was {value} in epoch {epoch}"
    return None


def require_finite_start(loss: float) -> None:
    """Refuse to train a model whose loss is no number before any step.

    Raises:
        RunFailed: it is not finite.
    """
    if not math.isfinite(loss):
        raise RunFailed(
            f"the loss is not finite before any step ({loss}), so no learning rate can help; check "
            "backbone.weights, and preprocess.mean and std"
        )


def stops_early(epochs: Sequence[EpochMetrics], train: Train) -> bool:
    """Whether validation has not got better for `early_stopping.patience` epochs."""
    stopping = train.early_stopping
    if stopping is None or not epochs:
        return False
    criterion = Criterion.of(train)
    if stopping.metric:
        criterion = Criterion(stopping.metric, METRICS[f"val.{stopping.metric}"])
    values = [criterion.score(epoch)[0] for epoch in epochs]
    best, since = values[0], 0
    for value in values[1:]:
        since += 1
        if value > best + stopping.min_delta:
            best, since = value, 0
    return since >= stopping.patience


def is_over(epochs: Sequence[EpochMetrics], train: Train) -> bool:
    """Whether no epoch follows these: the recipe's last one is among them, or it stops early.

    Another reason to stop belongs here, where runs and trials both ask.
    """
    finished = epochs[-1].epoch if epochs else 0
    return finished == train.epochs or stops_early(epochs, train)
