"""Thresholds that keep promises: chosen on some images, certified on others.

The images that choose give a path of thresholds, from cautious to bold, in an order that they
expect to hold. The others test one after another, all targets of it at once, until one fails. What
has passed is certified, all targets jointly, at the full level: a fixed sequence of tests
needs no correction (Bauer, Statistics in Medicine 10, 1991), nor does a test of several promises
that passes where each of them does (Berger, Technometrics 24, 1982). To order on one part and test
on another is Pareto Testing (Laufer-Goldshtein, Fisch, Barzilay & Jaakkola, ICLR 2023), a kind of
Learn then Test (Angelopoulos, Bates, Candès, Jordan & Lei, Annals of Applied Statistics 19, 2025).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.decisions.calibration import Calibration, Floats, Labels
from graft.decisions.promises import (
    Promise,
    Target,
    certify,
    images_needed,
    least_images,
    least_share,
)
from graft.decisions.rules import UNKNOWN, ClassThreshold, Thresholds, decide, log_odds

SLACKS = tuple(np.geomspace(0.01, 1.5, 28))
"""Shares of the failures that a target allows, which thresholds of the path take: the cautious
ones take few."""


@dataclass(frozen=True)
class Labelled:
    """Logits of held-out images, and what is on them."""

    logits: NDArray[np.float32]
    """(N, classes)."""
    labels: Labels
    """(N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(
            np.concatenate([self.logits, other.logits]),
            np.concatenate([self.labels, other.labels]),
        )


@dataclass(frozen=True)
class Certified:
    """Thresholds that keep all targets, at the level that was asked for."""

    rule: Thresholds
    promises: tuple[Promise, ...]


@dataclass(frozen=True)
class Lacking:
    """A target that the images do not certify."""

    promise: Promise
    """By the thresholds that were tested first, and so stopped the sequence."""
    more: int | None
    """So many more images that it is about would certify it, probably; None: these thresholds do
    not reach the target, however many there are."""
    share: float
    """Share that these answer as the target wants, of all images."""
    fits: bool = True
    """Whether an image of the class is among those that fit; without one there are no thresholds
    to test."""


def choose_thresholds(
    choosing: Labelled,
    certifying: Labelled,
    classes: tuple[str, ...],
    calibration: Calibration,
    targets: Sequence[Target],
    level: float,
    later: float,
) -> Certified | list[Lacking]:
    """Return thresholds that keep all targets jointly, or which targets are lacking.

    Of what is certified the thresholds are taken by which most images are answered right.

    Args:
        choosing: images that choose the path, and that `calibration` may come from.
        certifying: other images, which nothing was made from.
        classes: the model's.
        calibration: gives probabilities.
        targets: what is asked, in order of precedence; one at most for each class and kind.
        level: of so many draws of images that certify, at most, a promise is made and broken.
        later: the level of the next try, by which it is said how many more images it takes.
    """
    if unfit := _unfit(choosing, certifying, classes, targets, later):
        return unfit
    everything = choosing + certifying
    p = {id(on): calibration.apply(on.logits) for on in (choosing, certifying, everything)}

    def answers(rule: Thresholds, on: Labelled) -> NDArray[np.int64]:
        return decide(p[id(on)], classes, rule)

    def tested(rule: Thresholds, on: Labelled) -> list[Promise]:
        decided = answers(rule, on)
        return [certify(target, decided, on.labels, classes) for target in targets]

    def right(rule: Thresholds) -> int:
        return int((answers(rule, everything) == everything.labels).sum())

    rules = list(_path(choosing, classes, calibration, targets))
    # The most likely to pass comes first, of equal ones the most cautious.
    order = sorted(rules, key=lambda rule: _worst(tested(rule, choosing)))
    certified = list[Certified]()
    for rule in order:
        promises = tested(rule, certifying)
        if _worst(promises) > level:
            break
        certified.append(Certified(rule, tuple(promises)))
    if certified:
        return max(certified, key=lambda candidate: right(candidate.rule))
    pairs = zip(tested(order[0], certifying), tested(order[0], everything), strict=True)
    lacking = [_lacking(promise, _share(of_all), later) for promise, of_all in pairs]
    return [target for target in lacking if target.promise.p_value > level]


def _unfit(
    choosing: Labelled,
    certifying: Labelled,
    classes: tuple[str, ...],
    targets: Sequence[Target],
    level: float,
) -> list[Lacking]:
    """Return the recalls of classes that no image which chooses is of.

    Their threshold would be 0, and everything answered with the class.
    """
    nothing = np.full(len(certifying), UNKNOWN, np.int64)
    fitted = {classes[label] for label in choosing.labels}
    lacking = []
    for target in targets:
        if target.kind == "recall" and target.name not in fitted:
            promise = certify(target, nothing, certifying.labels, classes)
            more = max(1, least_images(target, level) - promise.images)
            lacking.append(Lacking(promise, more, 0.0, fits=False))
    return lacking


def _worst(promises: Sequence[Promise]) -> float:
    return max(promise.p_value for promise in promises)


def _share(promise: Promise) -> float:
    """Return the share that is answered as the target wants, drawn in by half an image."""
    return (promise.kept + 0.5) / (promise.images + 1)


def _lacking(promise: Promise, share: float, level: float) -> Lacking:
    least = least_images(promise.target, level)
    if promise.images < least:  # too few to say anything, whatever their answers are
        needed: int | None = least
    else:
        needed = images_needed(promise.target, share, level)
    return Lacking(promise, needed and max(1, needed - promise.images), share)


def _path(
    on: Labelled, classes: tuple[str, ...], calibration: Calibration, targets: Sequence[Target]
) -> Iterator[Thresholds]:
    """Yield thresholds from cautious to bold."""
    p = calibration.apply(on.logits)
    seen = set[Thresholds]()
    for slack in SLACKS:
        by_class = dict[str, float]()
        others = 0.0
        for target in targets:
            if target.name is None:
                scores, is_right = p.max(axis=1), p.argmax(axis=1) == on.labels
                others = _precise(scores, is_right, 1 - target.value, slack)
                continue
            scores = p[:, classes.index(target.name)]
            is_class = on.labels == classes.index(target.name)
            allowed = 1 - least_share(target)
            match target.kind:
                case "recall":
                    threshold = 1 - _exceeded(1 - scores[is_class], allowed * slack)
                case "precision":
                    threshold = _precise(scores, is_class, allowed, slack)
                case _:
                    threshold = _exceeded(scores[~is_class], allowed * slack)
            by_class[target.name] = _both(target, threshold, by_class.get(target.name))
        rule = Thresholds(
            by_class=tuple(ClassThreshold(name=n, threshold=t) for n, t in by_class.items()),
            others=others,
        )
        if rule not in seen:
            seen.add(rule)
            yield rule


def _both(target: Target, threshold: float, other: float | None) -> float:
    """Return one threshold for two targets of a class: a recall cannot bear a higher one."""
    if other is None:
        return threshold
    return min(threshold, other) if target.kind == "recall" else max(threshold, other)


def _exceeded(scores: Floats, share: float) -> float:
    """Return a threshold that a share of scores reaches: (N,) of 0 to 1.

    Where that share is less than one score, the threshold is beyond all, as far as the scores'
    tail, taken for an exponential one in log-odds, has it.
    """
    if not len(scores):
        return 1.0
    ordered = np.sort(scores)[::-1]
    expected = share * len(ordered)
    if expected >= 1:
        return float(ordered[min(int(expected), len(ordered)) - 1])
    odds = log_odds(ordered)
    upper = odds[: max(2, len(odds) // 2)]
    scale = max(float(upper[0] - upper[-1]) / np.log(len(upper) + 1), 0.1)
    beyond = float(upper[0]) - scale * np.log(max(expected, 1e-6))
    return float(1 / (1 + np.exp(-beyond)))


def _precise(scores: Floats, right: NDArray[np.bool_], allowed: float, slack: float) -> float:
    """Return the lowest threshold above which at most so many scores are wrong.

    Args:
        scores: (N,) of 0 to 1.
        right: (N,).
        allowed: share of wrong ones that the target allows.
        slack: how much of it the threshold takes.
    """
    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum(~right[order])
    holds = np.flatnonzero(wrong <= allowed * slack * np.arange(1, len(order) + 1))
    if len(holds):
        return float(scores[order[holds[-1]]])
    return float(scores[order[0]]) if len(order) else 1.0
