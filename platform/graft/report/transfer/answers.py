"""The answers of a transfer report: labels, accuracy, time, generalisation, what to take; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from graft.report.interval import LEVEL
from graft.report.transfer.cell_result import CellResult
from graft.report.transfer.design import ARMS, Condition, Way, arm_of
from graft.report.transfer.estimates import (
    Accuracies,
    Crossed,
    Estimate,
    Gain,
    Match,
    Plateau,
    TrainingCost,
    compare_all,
    gains,
    in_brackets,
    matches,
    plateaus,
)
from graft.report.transfer.generalisation import Generalisation, generalisation
from graft.report.two_way import LEAST_SEEDS
from graft.report.uses import Part
from graft.spec import Labels, Section, TransferReport

ENOUGH_SEEDS = 5
"""With fewer seeds, the report says which gains they cannot show."""


class ArmPoint(Section):
    """One arm at one label budget."""

    arm: str
    labels: Labels
    """As in the spec: a share of each class's training images, or a number of them."""
    images: int
    """Number of distinct images that it trains on."""
    tuned: int = 0
    """Number of further labelled images, by which its epoch and rate were chosen. Reports of
    earlier releases do not count them."""
    rate: float
    """The learning rate that validated best."""
    accuracy: Estimate
    """Accuracy on the test images."""
    rising: int
    """Number of seeds that were still getting better at the end: more epochs may help."""

    @property
    def labelled(self) -> int:
        """Number of labelled images that it takes, to train on or to be tuned by."""
        return self.images + self.tuned


class Provenance(Section):
    """Where a training's figures come from."""

    arm: str
    labels: Labels
    seed: int
    rate: float
    trial: str
    """SWEEP/NUMBER."""
    epoch: int
    """The epoch that validated best, whose weights were tested."""
    accuracy: float
    """Accuracy on the test images."""


class BackboneAnswers(Section):
    """What transfer from one backbone does."""

    arch: str
    weights: str
    points: tuple[ArmPoint, ...]
    gains: tuple[Gain, ...]
    matches: tuple[Match, ...]
    plateaus: tuple[Plateau, ...]
    generalisation: tuple[Generalisation, ...]
    take: str
    """The arm to take."""
    why: str
    warnings: tuple[str, ...]
    """Where transfer is shown to hurt, and what weakens the answers."""
    sources: tuple[Provenance, ...]
    ways: tuple[Way, ...] = ()
    """How each arm but scratch trains, with all labels: whom its gain concerns. Reports of earlier
    releases have none."""

    @property
    def title(self) -> str:
        """Architecture and weights, without the folder that these lie in."""
        return f"{self.arch} ({self.weights.rsplit('/', 1)[-1]})"


class Answers(Section):
    """All that a transfer report says: a report's `found`."""

    report: str
    dataset: str
    """NAME@VERSION."""
    split: str
    """The split that all models were judged on; nothing was tuned on it."""
    images: int
    """Number of its images that judged."""
    seeds: int
    backbones: tuple[BackboneAnswers, ...]
    """In the spec's order."""
    take: int
    """Place in `backbones` of the one to take."""
    why: str | None
    """null: there is one backbone."""
    part: Part | None = None
    """Part of the split that judges; null: all of it."""
    left_out: tuple[str, ...] = ()
    """Which other images would judge, had they not trained or tuned a model, a line each."""
    used_before: int = 0
    """How many other reports had used one of these images before."""


@dataclass(frozen=True)
class _BackboneResults:
    """All that a backbone's trainings gave."""

    place: int
    """Place in the spec's backbones."""
    cells: Mapping[Condition, Sequence[CellResult]]
    """By arm and label budget, one for each seed, in their order."""
    accuracy: Accuracies


def answer(
    report: str,
    spec: TransferReport,
    dataset: str,
    split: str,
    results: Sequence[CellResult],
) -> Answers:
    """Return a report's answers.

    Args:
        report: its id.
        spec: as it was recorded.
        dataset: NAME@VERSION.
        split: the split that models were judged on.
        results: of every cell of the design.
    """
    images = len(results[0].labels)
    answers, accuracies = [], []
    for place in range(len(spec.backbones)):
        cells: dict[Condition, list[CellResult]] = {}
        for result in sorted(results, key=lambda result: result.cell.seed):
            if result.cell.backbone == place:
                cells.setdefault(result.cell.condition, []).append(result)
        accuracy = {
            condition: Crossed(np.stack([result.right for result in by_seed]).astype(np.float64))
            for condition, by_seed in cells.items()
        }
        answers.append(_answer_for(report, spec, _BackboneResults(place, cells, accuracy)))
        accuracies.append({arm: accuracy[Condition(arm, spec.labels[-1])] for arm in ARMS})
    take, why = _take_backbone(answers, accuracies)
    return Answers(
        report=report,
        dataset=dataset,
        split=split,
        images=images,
        seeds=spec.seeds,
        backbones=tuple(answers),
        take=take,
        why=why,
    )


def _answer_for(report: str, spec: TransferReport, backbone: _BackboneResults) -> BackboneAnswers:
    cells, accuracy = backbone.cells, backbone.accuracy
    conditions = [Condition(arm, labels) for arm in ARMS for labels in spec.labels]
    labelled = {condition.labels: cells[condition][0].labelled for condition in conditions}
    points = [_point(spec, cells[c], accuracy[c].estimate) for c in conditions]
    gained = gains(accuracy, spec.labels)
    largest = {arm: cells[Condition(arm, spec.labels[-1])] for arm in ARMS}
    take, why = _take_arm(spec, accuracy, gained)
    return BackboneAnswers(
        arch=spec.backbones[backbone.place].arch,
        weights=spec.backbones[backbone.place].weights,
        points=tuple(points),
        gains=tuple(gained),
        matches=tuple(matches(accuracy, gained, labelled)),
        plateaus=tuple(_plateaus(largest)),
        generalisation=tuple(generalisation(largest)),
        take=take,
        why=why,
        warnings=tuple(_warnings(spec, gained, points, largest["scratch"], accuracy)),
        sources=tuple(_provenance(report, result) for c in conditions for result in cells[c]),
        ways=tuple(way for arm in ARMS for result in largest[arm] if (way := result.figures.way)),
    )


def _point(spec: TransferReport, results: Sequence[CellResult], accuracy: Estimate) -> ArmPoint:
    cell = results[0].cell
    return ArmPoint(
        arm=cell.condition.arm,
        labels=cell.condition.labels,
        images=results[0].figures.images,
        tuned=results[0].figures.tuned,
        rate=cell.rate,
        accuracy=accuracy,
        rising=sum(_rising(spec, result) for result in results),
    )


def _rising(spec: TransferReport, result: CellResult) -> bool:
    """Whether all epochs were trained, and the last of them still found a better one."""
    condition, epochs = result.cell.condition, len(result.record.epochs)
    arm, longer = arm_of(spec, condition.arm), spec.labels[-1] / condition.labels
    since_best = epochs - result.epoch
    return epochs == round(arm.epochs * longer) and (
        since_best < round((arm.patience or 1) * longer)
    )


def _plateaus(largest: Mapping[str, Sequence[CellResult]]) -> list[Plateau]:
    costs = {}
    for arm, (first, *_) in largest.items():
        figures = first.figures
        costs[arm] = TrainingCost(figures.images, figures.epoch_s or 0.0, figures.cold_s or 0.0)
    curves = {
        arm: [[epoch.val["accuracy"] for epoch in result.record.epochs] for result in results]
        for arm, results in largest.items()
    }
    return plateaus(curves, costs)


def _take_backbone(
    answers: Sequence[BackboneAnswers], accuracies: Sequence[Mapping[str, Crossed]]
) -> tuple[int, str | None]:
    """Return the place of the backbone to take, and why.

    It is the backbone whose best arm has the highest accuracy with all labels; `accuracies` holds
    these, backbone by backbone. Since the best of all arms was looked for, p-values are corrected
    for every two arms of two backbones.
    """
    best = [by_arm[answer.take] for answer, by_arm in zip(answers, accuracies, strict=True)]
    take = max(range(len(answers)), key=lambda place: best[place].value)
    pairs = [
        ((first, arm), (second, other))
        for first, second in combinations(range(len(answers)), 2)
        for arm, other in product(ARMS, ARMS)
    ]
    differences = [accuracies[a][arm] - accuracies[b][other] for (a, arm), (b, other) in pairs]
    compared = dict(zip(pairs, compare_all(differences), strict=True))
    reasons = []
    for place, other in enumerate(answers):
        if place == take:
            continue
        pair = sorted([(take, answers[take].take), (place, other.take)])
        shown = "not shown" if compared[pair[0], pair[1]].outcome == "not shown" else "shown"
        difference = (best[take] - best[place]).estimate
        reasons.append(
            f"{100 * difference.value:+.1f} points{in_brackets(difference)} against {other.take} "
            f"of {other.title}, {shown}"
        )
    return take, "; ".join(reasons) or None


def _take_arm(
    spec: TransferReport, accuracy: Accuracies, gained: Sequence[Gain]
) -> tuple[str, str]:
    """Return the arm to take, the most accurate with all labels, and whether that is shown."""
    largest = spec.labels[-1]
    best = max(ARMS, key=lambda arm: accuracy[Condition(arm, largest)].value)
    at_largest = {gain.arm: gain for gain in gained if gain.labels == largest}
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
    gained: Sequence[Gain],
    points: Sequence[ArmPoint],
    scratch: Sequence[CellResult],
    accuracy: Accuracies,
) -> list[str]:
    warnings = [f"transfer hurts: {gain}" for gain in gained if gain.outcome == "worse"]
    commonest = float(np.bincount(scratch[0].labels).max() / len(scratch[0].labels))
    if np.mean([result.right.mean() for result in scratch]) <= commonest:
        warnings.append(
            "scratch learned nothing: with all labels it does no better than the commonest class, "
            f"{100 * commonest:.1f} %; other arms.scratch.rates, or more epochs, may teach it"
        )
    if spec.seeds < LEAST_SEEDS:
        warnings.append(
            f"{spec.seeds} {'seed' if spec.seeds == 1 else 'seeds'}: no interval can be claimed, "
            f"and nothing is shown; {LEAST_SEEDS} seeds are the least"
        )
    elif few := _few_seeds(spec, accuracy):
        warnings.append(few)
    for arm in ARMS:
        rising = [p.labelled for p in points if p.arm == arm and p.rising > spec.seeds / 2]
        if rising:
            warnings.append(
                f"{arm} was still getting better in its last epoch with "
                f"{', '.join(map(str, rising))} labels; raise arms.{arm}.epochs"
            )
    return warnings


def _few_seeds(spec: TransferReport, accuracy: Accuracies) -> str | None:
    """Return what so few seeds could have shown with all labels; None where they are enough.

    That is the gain that the first step of Holm's correction would let by, of the arm whose
    interval is narrowest.
    """
    largest = spec.labels[-1]
    scratch = accuracy[Condition("scratch", largest)]
    tested = (len(ARMS) - 1) * len(spec.labels)
    means = [
        mean for arm in ARMS[1:] if (mean := (accuracy[Condition(arm, largest)] - scratch).two_way)
    ]
    least = min(mean.half_width(1 - (1 - LEVEL) / tested) for mean in means)
    room = max(scratch.value, 1 - scratch.value)
    if least > room:
        return (
            f"{spec.seeds} seeds cannot support a claim here: of {tested} gains, only one above "
            f"{100 * least:.0f} points could be shown, and no more than {100 * room:.0f} are "
            "possible; more seeds, or more test images, may show one"
        )
    if spec.seeds < ENOUGH_SEEDS:
        return (
            f"{spec.seeds} seeds: of {tested} gains, one below {100 * least:.1f} points could not "
            "be shown with all labels; more seeds narrow this"
        )
    return None


def _provenance(report: str, result: CellResult) -> Provenance:
    cell = result.cell
    return Provenance(
        arm=cell.condition.arm,
        labels=cell.condition.labels,
        seed=cell.seed,
        rate=cell.rate,
        trial=f"{report}-{'seeds' if cell.seed else 'rates'}/{result.record.number}",
        epoch=result.epoch,
        accuracy=float(result.right.mean()),
    )
