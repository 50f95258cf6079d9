"""What images that judge say of a calibration and of answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft.decisions.calibration import NONE, Calibration, Floats, Labels
from graft.decisions.promises import Target, certify, certify_cost
from graft.decisions.records import Decision, Held
from graft.decisions.rules import UNKNOWN, Answers, Costs, Rule, answer
from graft.registry import ModelVersion
from graft.report.evaluation.compute_scores import expected_calibration_error
from graft.report.evaluation.evaluate import judged_predictions
from graft.report.evaluation.predictions import Predictions
from graft.report.publishing import Report
from graft.store import Store

_TINY = 1e-300
"""A probability of 0 counts as this one."""


@dataclass(frozen=True)
class Measured:
    """Probabilities before and after a calibration, of the same images."""

    labels: Labels
    """(N,)."""
    before: Floats
    """(N, classes)."""
    after: Floats
    """(N, classes)."""

    @classmethod
    def of(cls, predictions: Predictions, calibration: Calibration) -> "Measured":
        """Return what a calibration does to predictions that it does not come from."""
        logits = predictions.logits
        return cls(predictions.labels, NONE.apply(logits), calibration.apply(logits))

    @cached_property
    def error_before(self) -> float:
        """Calibration error of the model's own probabilities."""
        return self._error(self.before)

    @cached_property
    def error_after(self) -> float:
        """Calibration error of the calibrated ones."""
        return self._error(self.after)

    @property
    def is_worse(self) -> bool:
        """Whether calibration makes the labels less likely, by more than the images' noise."""
        rows = np.arange(len(self.labels))
        before, after = (
            np.log(np.maximum(probabilities[rows, self.labels], _TINY))
            for probabilities in (self.before, self.after)
        )
        lost = before - after
        return bool(lost.mean() > lost.std() / max(len(lost) - 1, 1) ** 0.5)

    def right(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Return whether the likeliest class is the label: (N,)."""
        return np.asarray(probabilities.argmax(axis=1) == self.labels)

    def _error(self, probabilities: Floats) -> float:
        return expected_calibration_error(probabilities.max(axis=1), self.right(probabilities))


def costs_of(answers: Answers, labels: Labels, rule: Costs) -> Floats:
    """Return what each answer costs: (N,)."""
    by_class = np.array(rule.costs, np.float64)
    by_class = np.column_stack([by_class, rule.unknown or np.zeros(len(by_class))])
    costs: Floats = by_class[labels, answers.decided]  # `UNKNOWN` is the last column
    return costs


def largest_cost(rule: Costs) -> float:
    """Return what an answer costs at most."""
    return max(max(map(max, rule.costs)), max(rule.unknown or (0.0,)))


def judge_again(store: Store, version: ModelVersion, report: Report, decision: Decision) -> Held:
    """Return how a decision answers for the images that an evaluation judged."""
    predictions = judged_predictions(store, version, report)
    targets = [promise.target for promise in decision.promises]
    return judge(predictions, decision.calibration, decision.rule, targets)


def judge(
    predictions: Predictions,
    calibration: Calibration,
    rule: Rule,
    targets: Sequence[Target] = (),
) -> Held:
    """Return how a rule answers for images that it does not come from."""
    answers = answer(predictions.logits, predictions.classes, calibration, rule)
    labels, decided = predictions.labels, answers.decided
    promises = [
        certify_cost(target, costs_of(answers, labels, rule), largest_cost(rule))
        if isinstance(rule, Costs)
        else certify(target, decided, labels, predictions.classes)
        for target in targets
    ]
    covered = mean_set = None
    if answers.sets is not None:
        covered = int(answers.sets[np.arange(len(labels)), labels].sum())
        mean_set = float(answers.sets.sum(axis=1).mean())
    return Held(
        images=len(labels),
        answered=int((decided != UNKNOWN).sum()),
        right=int((decided == labels).sum()),
        promises=tuple(promises),
        covered=covered,
        mean_set=mean_set,
    )
