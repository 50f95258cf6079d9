"""From logits to an answer: the one function by which serving, batches and evaluation decide."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graft.decisions.calibration import Calibration, Floats
from graft.spec import Section
from graft.spec.section import Fraction

UNKNOWN = -1
"""In place of a class: the model does not answer."""
UNKNOWN_NAME = "unknown"
"""What that is called in answers."""
_DIGITS = 17
"""So many tell any two numbers apart."""
_TINY, _CLOSE = 1e-300, 1e-12
"""How near to 0 and to 1 log-odds tell probabilities apart: nearer to 1 these are rounded."""


class Likeliest(Section):
    """The likeliest class is the answer."""

    kind: Literal["likeliest"] = "likeliest"


class ClassThreshold(Section):
    """The probability from which on an image is of a class."""

    name: str
    """The class."""
    threshold: Fraction


class Thresholds(Section):
    """The first class that reaches its threshold; else the likeliest, if it has none of its own."""

    kind: Literal["thresholds"] = "thresholds"
    by_class: tuple[ClassThreshold, ...] = ()
    """In order of precedence: of several classes that reach theirs, the first is the answer."""
    others: Fraction = 0.0
    """The least probability of the other classes; below it the answer is `unknown`."""


class Costs(Section):
    """The answer whose expected cost is the least."""

    kind: Literal["costs"] = "costs"
    costs: tuple[tuple[float, ...], ...]
    """Of each true class, in the model's order, what each answer costs."""
    unknown: tuple[float, ...] | None = None
    """Of each true class, what `unknown` costs; null: the model always answers."""


class Sets(Section):
    """All classes of at least a probability; the answer is the only one, else `unknown`."""

    kind: Literal["sets"] = "sets"
    threshold: Fraction


Rule = Annotated[Likeliest | Thresholds | Costs | Sets, Field(discriminator="kind")]


def misfit(calibration: Calibration, rule: Rule, classes: tuple[str, ...]) -> str:
    """Return why these do not belong to a model of those classes, or nothing."""
    count = len(classes)
    for numbers in (calibration.scales, calibration.shifts):
        if len(numbers) not in (1, count):
            return f"its calibration is for {len(numbers)} classes, the model has {count}"
    if not isinstance(rule, Likeliest) and UNKNOWN_NAME in classes:
        return (
            f"it has a class '{UNKNOWN_NAME}', as answers are called that are none: thresholds, "
            "costs and sets need another name of it"
        )
    match rule:
        case Thresholds(by_class=by_class):
            names = [threshold.name for threshold in by_class]
            if unknown := [name for name in names if name not in classes]:
                return f"the model has no class '{unknown[0]}', of which it has a threshold"
            if len(set(names)) < len(names):
                return "it has two thresholds of one class"
        case Costs(costs=costs, unknown=of_unknown):
            widths = {len(row) for row in costs} | ({len(of_unknown)} if of_unknown else set())
            if len(costs) != count or widths != {count}:
                return f"its costs are not those of {count} classes"
    return ""


@dataclass(frozen=True)
class Answers:
    """What a model answers for N images."""

    classes: tuple[str, ...]
    probabilities: Floats
    """Calibrated: (N, classes)."""
    decided: NDArray[np.int64]
    """Position of the class that is the answer, or `UNKNOWN`: (N,)."""
    rule: Rule
    reach: float
    """By how much log-odds move, at most, where each logit moves by one."""
    sets: NDArray[np.bool_] | None = None
    """Of `Sets`: which classes belong to each image's set: (N, classes)."""

    @cached_property
    def distance(self) -> Floats:
        """How far each logit may at least move before the answer is another one: (N,)."""
        return _distance(self.probabilities, self.classes, self.rule) / self.reach

    def name(self, i: int) -> str:
        """Return an image's answer: a class, or `unknown`."""
        decided = int(self.decided[i])
        return UNKNOWN_NAME if decided == UNKNOWN else self.classes[decided]

    def set_of(self, i: int) -> list[str] | None:
        """Return the classes of an image's set, likeliest first; None: the rule makes none."""
        if self.sets is None:
            return None
        order = np.argsort(-self.probabilities[i], kind="stable")
        return [self.classes[c] for c in order if self.sets[i, c]]

    def why(self, i: int) -> str:
        """Return why an image has its answer, in a few words."""
        p, decided = self.probabilities[i], int(self.decided[i])
        match self.rule:
            case Thresholds(by_class=by_class, others=others):
                thresholds = {single.name: single.threshold for single in by_class}
                name = self.classes[int(p.argmax()) if decided == UNKNOWN else decided]
                probability = float(p[self.classes.index(name)])
                is_below, threshold = decided == UNKNOWN, thresholds.get(name, others)
                has, least = _told_apart(probability, threshold, is_below)
                return f"{name} has {has}, {'below' if is_below else 'at least'} {least}"
            case Costs():
                return "the least expected cost"
            case Sets(threshold=threshold):
                count = 0 if self.sets is None else int(self.sets[i].sum())
                return f"{count} classes have at least {_short(threshold)}"
            case _:
                return "the likeliest class"


def _short(threshold: float) -> str:
    """Return a threshold in few digits, of which one that is not 1 has enough."""
    for digits in range(3, _DIGITS):
        if float(text := f"{threshold:.{digits}g}") < 1:
            return text
    return f"{threshold:.{_DIGITS}g}"


def _told_apart(probability: float, threshold: float, is_below: bool) -> tuple[str, str]:
    """Return both in as many digits as show on which side of the threshold the probability is."""
    least = _short(threshold)
    for digits in range(3, _DIGITS):
        has = f"{probability:.{digits}f}"
        least = max(least, f"{threshold:.{digits}g}", key=len)
        if (float(has) < float(least)) == is_below:
            return has, least
    return f"{probability:.{_DIGITS}g}", f"{threshold:.{_DIGITS}g}"


def answer(
    logits: NDArray[np.float32], classes: tuple[str, ...], calibration: Calibration, rule: Rule
) -> Answers:
    """Return what a model answers, from its logits: (N, classes).

    Probabilities are compared as they are: where two runs of a model differ by less than `distance`
    in each logit, they give the same answer.
    """
    p = calibration.apply(logits)
    sets = p >= rule.threshold if isinstance(rule, Sets) else None
    return Answers(classes, p, decide(p, classes, rule), rule, _reach(calibration), sets)


def decide(p: Floats, classes: tuple[str, ...], rule: Rule) -> NDArray[np.int64]:
    """Return the answers to calibrated probabilities: positions of classes, or `UNKNOWN`: (N,).

    Args:
        p: probabilities: (N, classes).
        classes: the model's.
        rule: the rule.
    """
    match rule:
        case Thresholds(by_class=by_class, others=others):
            top = p.argmax(axis=1)
            positions = np.array([classes.index(single.name) for single in by_class], np.int64)
            is_other = ~np.isin(top, positions)
            decided = np.where(is_other & (p.max(axis=1) >= others), top, UNKNOWN)
            # The first that an image passes takes it: it comes last here.
            for position, single in zip(positions[::-1], by_class[::-1], strict=True):
                decided = np.where(p[:, position] >= single.threshold, position, decided)
            return decided
        case Costs(costs=costs):
            best = (p @ _all_costs(rule)).argmin(axis=1)
            return np.where(best == len(costs), UNKNOWN, best)
        case Sets(threshold=threshold):
            sets = p >= threshold
            return np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), UNKNOWN)
        case _:
            return np.asarray(p.argmax(axis=1))


def _distance(p: Floats, classes: tuple[str, ...], rule: Rule) -> Floats:
    """Return how far calibrated log-odds may move, at least, before an answer changes: (N,)."""
    match rule:
        case Thresholds(by_class=by_class, others=others):
            distance = np.minimum(_lead(p), _from(p.max(axis=1), others))
            for single in reversed(by_class):
                of_class = p[:, classes.index(single.name)]
                away = _from(of_class, single.threshold)
                # Those before it may still take the image: their turn comes.
                passes = of_class >= single.threshold
                distance = np.where(passes, away, np.minimum(distance, away))
            return distance
        case Costs():
            return _distance_by_costs(p, _all_costs(rule))
        case Sets(threshold=threshold):
            return np.asarray(_from(p, threshold).min(axis=1))
        case _:
            return _lead(p)


def _all_costs(rule: Costs) -> Floats:
    """Return what each answer costs where each class is right: (classes, answers)."""
    costs = np.array(rule.costs, np.float64)
    return costs if rule.unknown is None else np.column_stack([costs, rule.unknown])


def _distance_by_costs(p: Floats, costs: Floats) -> Floats:
    """Return a bound on how far the logits are from where the least cost is another answer's."""
    if costs.shape[1] == 1:
        return np.full(len(p), np.inf)
    first, second = np.sort(p @ costs, axis=1)[:, :2].T
    # Logits that move by e move softmax by at most e in the sum of absolute differences, and so the
    # difference of two expected costs by at most e times the spread of costs.
    spread = costs.max() - costs.min()
    return np.asarray(2 * (second - first) / spread) if spread else np.zeros(len(p))


def _reach(calibration: Calibration) -> float:
    """Return by how much log-odds move, at most, where each logit moves by one."""
    return 2 * calibration.steepest or 1.0


def _lead(p: Floats) -> Floats:
    """Return how far the likeliest class is ahead of the next, in log-probability: (N,)."""
    if p.shape[1] == 1:
        return np.full(len(p), np.inf)
    second, first = np.sort(p, axis=1)[:, -2:].T
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(first) - np.log(second))


def _from(p: Floats, threshold: float) -> Floats:
    """Return how far probabilities are from a threshold, in log-odds."""
    if threshold <= 0:
        return np.full(p.shape, np.inf)  # all reach it, whatever the logits are
    return np.asarray(np.abs(log_odds(p) - log_odds(np.array(threshold))))


def log_odds(p: Floats) -> Floats:
    """Return log(p / (1 - p)), finite for 0 and 1, too."""
    inside = np.clip(p, _TINY, 1 - _CLOSE)
    return np.asarray(np.log(inside) - np.log1p(-inside))
