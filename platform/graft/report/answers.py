"""The answers of a transfer report: labels, accuracy, time, generalisation, what to take; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from graft.report.design import ARMS, METRIC, MODE, Budget, Cell, arm_of
from graft.report.gain import (
    Drawn,
    Estimate,
    Gain,
    Match,
    Plateau,
    Sampler,
    Versus,
    gains,
    matches,
    outcome_of,
    plateau,
    versus,
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
    corrupted: Mapping[str, NDArray[np.float64]]
    """1 where a corrupted test image was predicted right: (strengths, N), by corruption."""

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
    """Seeds that ended before their plateau: more epochs may do better."""


class Generalisation(Section):
    """What becomes of an arm's accuracy on images unlike its training's, at the largest budget."""

    arm: str
    gap: Estimate
    """Accuracy on its own training images less that on the test's."""
    ece: Estimate
    """Calibration error over the test images of all seeds."""
    corrupted: dict[str, tuple[Estimate, ...]]
    """Accuracy by corruption and strength."""
    corrupted_mean: Estimate
    """Accuracy over all corruptions and strengths."""
    against: dict[str, Versus] | None
    """`gap`, `ece` and `corrupted_mean` against scratch's; null: it is scratch."""


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


class BackboneAnswers(Section):
    """What transfer from one backbone does."""

    arch: str
    weights: str
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

    @property
    def title(self) -> str:
        """Architecture and weights, without the folder that they lie in."""
        return f"{self.arch} ({self.weights.rsplit('/', 1)[-1]})"


class Answers(Section):
    """What a transfer report found."""

    report: str
    dataset: str
    """NAME@VERSION."""
    split: str
    """That all were judged on; nothing was tuned on it."""
    images: int
    """In it."""
    seeds: int
    backbones: tuple[BackboneAnswers, ...]
    """In the spec's order."""
    take: int
    """Place in `backbones` of the one to take."""
    why: str | None
    """Null: there is one backbone."""


def answer(
    report: str,
    spec: TransferReport,
    dataset: str,
    split: str,
    measured: Sequence[Measured],
    cold_s: Sequence[Mapping[str, float]],
) -> Answers:
    """Return a report's answers.

    Args:
        report: its id.
        spec: what was asked.
        dataset: NAME@VERSION.
        split: that models were judged on.
        measured: every cell of the design.
        cold_s: of each backbone, by arm, seconds to compute the activations that it reads at the
            largest budget.
    """
    count = len(measured[0].labels)
    sampler = Sampler.of(spec.seeds, count)
    found, best = [], []
    for backbone, seconds in enumerate(cold_s):
        by_budget: dict[Budget, list[Measured]] = {}
        for one in sorted(measured, key=lambda one: one.cell.seed):
            if one.cell.backbone == backbone:
                by_budget.setdefault(one.cell.budget, []).append(one)
        accuracy = {
            budget: Drawn.mean(np.stack([one.right for one in ones]), sampler)
            for budget, ones in by_budget.items()
        }
        own = _of_backbone(report, spec, backbone, by_budget, accuracy, seconds, sampler)
        found.append(own)
        best.append(accuracy[Budget(own.take, spec.labels[-1])])
    take, why = _choose(found, best)
    return Answers(
        report=report,
        dataset=dataset,
        split=split,
        images=count,
        seeds=spec.seeds,
        backbones=tuple(found),
        take=take,
        why=why,
    )


def _of_backbone(
    report: str,
    spec: TransferReport,
    backbone: int,
    by_budget: Mapping[Budget, Sequence[Measured]],
    accuracy: Mapping[Budget, Drawn],
    cold_s: Mapping[str, float],
    sampler: Sampler | None,
) -> BackboneAnswers:
    images = {budget.labels: ones[0].images for budget, ones in by_budget.items()}
    places = [Budget(arm, labels) for arm in ARMS for labels in spec.labels]
    points = [_point(spec, by_budget[place], accuracy[place].estimate) for place in places]
    found = gains(accuracy, spec.labels)
    largest = {arm: by_budget[Budget(arm, spec.labels[-1])] for arm in ARMS}
    take, why = _verdict(spec, {place: one.value for place, one in accuracy.items()}, found)
    return BackboneAnswers(
        arch=spec.backbones[backbone].arch,
        weights=spec.backbones[backbone].weights,
        points=tuple(points),
        gains=tuple(found),
        matches=tuple(matches(accuracy, spec.labels, images)),
        plateaus=tuple(_plateau(arm, largest, cold_s.get(arm, 0.0), sampler) for arm in ARMS),
        generalisation=tuple(_generalisation(largest, sampler)),
        take=take,
        why=why,
        warnings=tuple(_warnings(spec, found, points, largest["scratch"])),
        sources=tuple(_source(report, one) for place in places for one in by_budget[place]),
    )


def _best_epoch(one: Measured) -> int:
    epoch = best_epoch(one.record, METRIC, MODE)
    return epoch.epoch if epoch else 0


def _point(spec: TransferReport, ones: Sequence[Measured], accuracy: Estimate) -> Point:
    cell = ones[0].cell
    return Point(
        arm=cell.budget.arm,
        labels=cell.budget.labels,
        images=ones[0].images,
        rate=cell.rate,
        accuracy=accuracy,
        rising=sum(_rising(spec, one) for one in ones),
    )


def _rising(spec: TransferReport, one: Measured) -> bool:
    """Whether all epochs were trained, and the last ones still found a better one."""
    arm, longer = arm_of(spec, one.cell.budget.arm), spec.labels[-1] / one.cell.budget.labels
    trained = len(one.record.epochs)
    return trained == round(arm.epochs * longer) and (
        trained - _best_epoch(one) < round((arm.patience or 1) * longer)
    )


def _plateau(
    arm: str,
    largest: Mapping[str, Sequence[Measured]],
    cold_s: float,
    sampler: Sampler | None,
) -> Plateau:
    ones = largest[arm]
    spent = [one.record.seconds / max(1, len(one.record.epochs)) for one in ones]
    curves = {
        name: [[epoch.val["accuracy"] for epoch in one.record.epochs] for one in largest[name]]
        for name in (arm, "scratch")
    }
    return plateau(
        arm,
        curves[arm],
        curves["scratch"],
        ones[0].images,
        sum(spent) / len(spent),
        cold_s,
        sampler,
    )


def _generalisation(
    largest: Mapping[str, Sequence[Measured]], sampler: Sampler | None
) -> list[Generalisation]:
    figures = {arm: _figures(ones, sampler) for arm, ones in largest.items()}
    found = []
    for arm, ones in largest.items():
        gap, ece, corrupted = figures[arm]
        of_scratch = zip(("gap", "ece", "corrupted_mean"), figures["scratch"], strict=True)
        by_strength = {
            name: np.stack([one.corrupted[name] for one in ones], axis=1)
            for name in ones[0].corrupted
        }
        found.append(
            Generalisation(
                arm=arm,
                gap=gap.estimate,
                ece=ece.estimate,
                corrupted={
                    name: tuple(Drawn.mean(values, sampler).estimate for values in strengths)
                    for name, strengths in by_strength.items()
                },
                corrupted_mean=corrupted.estimate,
                against=None
                if arm == "scratch"
                else {
                    name: versus(own, scratch, less=name != "corrupted_mean")
                    for own, (name, scratch) in zip(figures[arm], of_scratch, strict=True)
                },
            )
        )
    return found


def _figures(ones: Sequence[Measured], sampler: Sampler | None) -> tuple[Drawn, Drawn, Drawn]:
    """Return the train-test gap, the calibration error, and the accuracy over all corruptions."""
    right = np.stack([one.right for one in ones])
    own = np.array([one.train_accuracy or 0.0 for one in ones])
    confidence = np.stack([softmax(one.logits.astype(float), axis=1).max(axis=1) for one in ones])
    corrupted = np.stack(
        [np.concatenate(list(one.corrupted.values())).mean(axis=0) for one in ones]
    )
    return (
        Drawn.mean(own, sampler) - Drawn.mean(right, sampler),
        _calibration(confidence, right, sampler),
        Drawn.mean(corrupted, sampler),
    )


def _calibration(
    confidence: NDArray[np.float64], right: NDArray[np.float64], sampler: Sampler | None
) -> Drawn:
    """Return the calibration error of predictions, each (seeds, images)."""

    def error(confident: NDArray[np.float64], correct: NDArray[np.float64]) -> float:
        return calibration_error(reliability(confident.ravel(), correct.ravel().astype(bool)))

    draws = None
    if sampler:
        places = zip(sampler.seeds, sampler.images, strict=True)
        draws = np.array(
            [
                error(confidence[np.ix_(seeds, images)], right[np.ix_(seeds, images)])
                for seeds, images in places
            ]
        )
    seeds = np.array([error(*one) for one in zip(confidence, right, strict=True)])
    return Drawn(error(confidence, right), seeds, draws)


def _choose(found: Sequence[BackboneAnswers], best: Sequence[Drawn]) -> tuple[int, str | None]:
    """Return the backbone whose best arm is best at the largest budget, and how the others do."""
    take = max(range(len(found)), key=lambda one: best[one].value)
    told = []
    for place, other in enumerate(found):
        if place == take:
            continue
        less = (best[take] - best[place]).estimate
        spread = less.interval
        ends = f" ({100 * spread.low:+.1f} to {100 * spread.high:+.1f})" if spread else ""
        shown = "shown" if outcome_of(less) == "better" else "not shown"
        told.append(
            f"{100 * less.value:+.1f} points{ends} against {other.take} of {other.title}, {shown}"
        )
    return take, "; ".join(told) or None


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


def _warnings(
    spec: TransferReport,
    found: Sequence[Gain],
    points: Sequence[Point],
    scratch: Sequence[Measured],
) -> list[str]:
    told = [f"transfer hurts: {gain}" for gain in found if gain.outcome == "worse"]
    commonest = float(np.bincount(scratch[0].labels).max() / len(scratch[0].labels))
    if np.mean([one.right.mean() for one in scratch]) <= commonest:
        told.append(
            "scratch learned nothing: with all labels it does no better than the commonest class, "
            f"{100 * commonest:.1f} %; other arms.scratch.rates, or more epochs, may teach it"
        )
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
        arm=cell.budget.arm,
        labels=cell.budget.labels,
        seed=cell.seed,
        rate=cell.rate,
        trial=f"{report}-{'seeds' if cell.seed else 'rates'}/{one.record.number}",
        epoch=_best_epoch(one),
        accuracy=float(one.right.mean()),
    )
