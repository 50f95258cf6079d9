"""The answers of a transfer report: labels, accuracy, time, generalisation, what to take; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from graft.report.design import ARMS, METRIC, MODE, Budget, Cell
from graft.report.gain import (
    Estimate,
    Gain,
    Match,
    Plateau,
    Sampler,
    estimate,
    gains,
    matches,
    plateau,
)
from graft.report.scoring import calibration_error, reliability
from graft.spec import Section, TransferReport
from graft.sweep.results import TrialRecord, best_epoch


@dataclass(frozen=True)
class Measured:
    """A trained cell, tried on images that it was not tuned on."""

    cell: Cell
    images: int
    """That it trained on."""
    record: TrialRecord
    labels: NDArray[np.int64]
    """(N,), of the test images."""
    logits: NDArray[np.float32]
    """(N, C)."""
    train_accuracy: float | None
    """On its own training images, without augmentation; null: not at the largest budget."""
    corrupted: Mapping[str, tuple[float, ...]]
    """Accuracy on corrupted test images, by corruption and strength."""

    @property
    def right(self) -> NDArray[np.float64]:
        """1 where an image was predicted right: (N,)."""
        found: NDArray[np.float64] = (self.logits.argmax(1) == self.labels).astype(np.float64)
        return found


class Point(Section):
    """One arm at one label budget."""

    arm: str
    labels: float
    """As asked: a share, or a number of each class."""
    images: int
    """That it trains on."""
    rate: float
    """The learning rate that validated best."""
    accuracy: Estimate
    """On the test images."""
    rising: int
    """Seeds whose best epoch is their last: more epochs may do better."""


class Generalisation(Section):
    """What becomes of an arm's accuracy on images unlike its training's, at the largest budget."""

    arm: str
    gap: float
    """Accuracy on its own training images less that on the test's; mean over seeds."""
    ece: float
    """Calibration error over the test images of all seeds."""
    corrupted: dict[str, tuple[float, ...]]
    """Accuracy by corruption and strength; mean over seeds."""


class Source(Section):
    """Where a training's figures come from."""

    arm: str
    labels: float
    seed: int
    rate: float
    trial: str
    """SWEEP/NUMBER."""
    epoch: int
    """The one that validated best, whose weights were tried."""
    accuracy: float
    """On the test images."""


class Answers(Section):
    """What a transfer report found."""

    report: str
    dataset: str
    """NAME@VERSION."""
    split: str
    """That all were judged on; nothing was tuned on it."""
    images: int
    """In it."""
    arch: str
    weights: str
    seeds: int
    points: tuple[Point, ...]
    gains: tuple[Gain, ...]
    matches: tuple[Match, ...]
    plateaus: tuple[Plateau, ...]
    generalisation: tuple[Generalisation, ...]
    take: str
    """The arm to take."""
    why: str
    warnings: tuple[str, ...]
    """Where transfer is shown to hurt, and what weakens the answers."""
    sources: tuple[Source, ...]


def answer(
    report: str,
    spec: TransferReport,
    dataset: str,
    split: str,
    measured: Sequence[Measured],
    cold_s: Mapping[str, float],
) -> Answers:
    """Return a report's answers.

    Args:
        report: its id.
        spec: what was asked.
        dataset: NAME@VERSION.
        split: that models were judged on.
        measured: every cell of the design.
        cold_s: by arm, seconds to compute the activations that it reads at the largest budget.
    """
    by_budget: dict[Budget, list[Measured]] = {}
    for one in sorted(measured, key=lambda one: one.cell.seed):
        by_budget.setdefault(one.cell.budget, []).append(one)
    right = {budget: np.stack([one.right for one in ones]) for budget, ones in by_budget.items()}
    count = len(measured[0].labels)
    sampler = Sampler.of(spec.seeds, count)
    images = {budget.labels: ones[0].images for budget, ones in by_budget.items()}
    points = tuple(
        _point(ones, right[budget], sampler)
        for budget, ones in sorted(by_budget.items(), key=_order)
    )
    found = gains(right, spec.labels, sampler)
    means = {budget: float(values.mean()) for budget, values in right.items()}
    largest = {arm: by_budget[Budget(arm, spec.labels[-1])] for arm in ARMS}
    take, why = _verdict(spec, means, found)
    return Answers(
        report=report,
        dataset=dataset,
        split=split,
        images=count,
        arch=spec.base.backbone.arch,
        weights=spec.base.backbone.weights,
        seeds=spec.seeds,
        points=points,
        gains=tuple(found),
        matches=tuple(matches(means, spec.labels, images)),
        plateaus=tuple(_plateau(arm, largest, cold_s.get(arm, 0.0)) for arm in ARMS),
        generalisation=tuple(_generalisation(arm, largest[arm]) for arm in ARMS),
        take=take,
        why=why,
        warnings=tuple(_warnings(spec, found, points)),
        sources=tuple(_source(report, one) for one in measured),
    )


def _order(item: tuple[Budget, object]) -> tuple[int, float]:
    budget = item[0]
    return ARMS.index(budget.arm), budget.labels


def _best_epoch(one: Measured) -> int:
    epoch = best_epoch(one.record, METRIC, MODE)
    return epoch.epoch if epoch else 0


def _point(ones: Sequence[Measured], right: NDArray[np.float64], sampler: Sampler | None) -> Point:
    cell = ones[0].cell
    return Point(
        arm=cell.arm,
        labels=cell.labels,
        images=ones[0].images,
        rate=cell.rate,
        accuracy=estimate(right, sampler),
        rising=sum(_best_epoch(one) == len(one.record.epochs) for one in ones),
    )


def _plateau(arm: str, largest: Mapping[str, Sequence[Measured]], cold_s: float) -> Plateau:
    ones = largest[arm]
    spent = [one.record.seconds / max(1, len(one.record.epochs)) for one in ones]
    return plateau(
        arm,
        [[epoch.val["accuracy"] for epoch in one.record.epochs] for one in ones],
        [max(e.val["accuracy"] for e in one.record.epochs) for one in largest["scratch"]],
        ones[0].images,
        sum(spent) / len(spent),
        cold_s,
    )


def _generalisation(arm: str, ones: Sequence[Measured]) -> Generalisation:
    probabilities = softmax(np.concatenate([one.logits for one in ones]).astype(float), axis=1)
    right = np.concatenate([one.right for one in ones]).astype(bool)
    gaps = [(one.train_accuracy or 0.0) - float(one.right.mean()) for one in ones]
    names = ones[0].corrupted
    return Generalisation(
        arm=arm,
        gap=sum(gaps) / len(gaps),
        ece=calibration_error(reliability(probabilities.max(1), right)),
        corrupted={
            name: tuple(np.mean([one.corrupted[name] for one in ones], axis=0).tolist())
            for name in names
        },
    )


def _verdict(
    spec: TransferReport, means: Mapping[Budget, float], found: Sequence[Gain]
) -> tuple[str, str]:
    """Return the arm to take, and why: the best at the largest budget, if it is shown to be so."""
    largest = spec.labels[-1]
    best = max(ARMS, key=lambda arm: means[Budget(arm, largest)])
    at_largest = {gain.arm: gain for gain in found if gain.labels == largest}
    if best == "scratch":
        worse = [arm for arm, gain in at_largest.items() if gain.outcome == "worse"]
        shown = f"; shown to be worse: {', '.join(worse)}" if worse else ""
        return best, f"no arm that transfers does better with all labels{shown}"
    gain = at_largest[best]
    if gain.outcome == "better":
        return best, f"shown to beat scratch: {gain}"
    return best, f"best with all labels, though not shown to beat scratch: {gain}"


def _warnings(spec: TransferReport, found: Sequence[Gain], points: Sequence[Point]) -> list[str]:
    told = [f"transfer hurts: {gain}" for gain in found if gain.outcome == "worse"]
    if spec.seeds < 5:
        told.append(
            f"{spec.seeds} {'seed' if spec.seeds == 1 else 'seeds'}: no interval can be claimed, "
            "and nothing is shown; 5 seeds are the least"
        )
    for arm in ARMS:
        rising = [p.images for p in points if p.arm == arm and p.rising > spec.seeds / 2]
        if rising:
            told.append(
                f"{arm} was still getting better in its last epoch with "
                f"{', '.join(map(str, rising))} labels; raise arms.{arm}.epochs"
            )
    return told


def _source(report: str, one: Measured) -> Source:
    cell = one.cell
    return Source(
        arm=cell.arm,
        labels=cell.labels,
        seed=cell.seed,
        rate=cell.rate,
        trial=f"{report}-{'seeds' if cell.seed else 'rates'}/{one.record.number}",
        epoch=_best_epoch(one),
        accuracy=float(one.right.mean()),
    )
