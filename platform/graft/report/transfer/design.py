"""The design of a transfer report: which trainings it compares; pure.

A cell is one training: a backbone, an arm, a label budget and a seed. Cells of the same budget and
seed learn from the same images, so that arms are compared in pairs. The learning rate of an arm at
a budget is chosen on the first seed and used for all. Smaller budgets get more epochs, so that all
cells take the same number of steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graft.registry import ModelVersion
from graft.spec import Arm, Changes, Head, Labels, Section, TransferReport, UniformRates
from graft.sweep.best_trial import best_epoch
from graft.sweep.sweep_records import TrialEpoch, TrialRecord

ARMS = ("scratch", "features", "partial", "full")
METRIC, MODE = "val.loss", "min"
"""Rates and epochs are chosen by this: on few images it says more than accuracy does."""


@dataclass(frozen=True, order=True)
class Condition:
    """One arm at one label budget."""

    arm: str
    labels: Labels
    """As in the spec: a share of each class's training images, or a number of them."""


ChosenRates = Mapping[tuple[int, Condition], float]
"""The chosen learning rate, by backbone (its place in the spec) and condition."""


@dataclass(frozen=True)
class Cell:
    """One training of the design."""

    backbone: int
    """Place in the spec's backbones."""
    condition: Condition
    seed: int
    rate: float


class Way(Section):
    """How an arm trains a backbone, with nothing left to resolve: what a verdict concerns."""

    arm: str
    freeze: int
    """Freeze depth, the number of frozen stages."""
    trunk_digest: str
    """Of these stages and of the preprocessing."""
    weights: str
    """The initial weights, as a run records them."""
    weights_sha256: str | None
    """null: they are a model version's."""
    head: Head
    rates: dict[str, Any]
    """`train.rates`, as JSON types; the rate that they start from is not part of the way."""

    def concerns(self, version: ModelVersion) -> bool:
        """Whether a version was trained this way, from the same weights."""
        spec = version.lineage.spec
        backbone, train = spec.get("backbone", {}), spec.get("train", {})
        # The digest of few frozen stages, or of none, does not name the weights of the others.
        if self.weights_sha256:
            same_weights = backbone.get("weights_sha256") == self.weights_sha256
        else:
            same_weights = backbone.get("weights") == self.weights
        return (
            same_weights
            and (version.freeze, version.trunk_digest) == (self.freeze, self.trunk_digest)
            and version.head == self.head
            and not train.get("unfreeze")
            and train.get("rates", UniformRates().model_dump(mode="json")) == self.rates
        )


def arm_of(spec: TransferReport, name: str) -> Arm:
    """Return an arm by its name."""
    arm: Arm = getattr(spec.arms, name)
    return arm


def label_budget(labels: Labels) -> str:
    """Return a label budget for people to read: a share (a float), or a number (an int)."""
    return f"{100 * labels:g} %" if isinstance(labels, float) else f"{labels} a class"


def first_cells(spec: TransferReport) -> list[Cell]:
    """Return the cells of the first seed, at every rate."""
    return [
        Cell(backbone, condition, 0, rate)
        for backbone, condition in _conditions(spec)
        for rate in arm_of(spec, condition.arm).rates
    ]


def other_cells(spec: TransferReport, rates: ChosenRates) -> list[Cell]:
    """Return the cells of all other seeds, at the chosen rates."""
    return [
        Cell(backbone, condition, seed, rates[backbone, condition])
        for backbone, condition in _conditions(spec)
        for seed in range(1, spec.seeds)
    ]


def _conditions(spec: TransferReport) -> list[tuple[int, Condition]]:
    """Return each backbone, by its place in the spec, with each of its arms at each budget."""
    return [
        (backbone, Condition(arm, labels))
        for backbone in range(len(spec.backbones))
        for arm in ARMS
        for labels in spec.labels
    ]


def changes_of(spec: TransferReport, cell: Cell, holds_out: bool) -> Changes:
    """Return a cell's changes to the report's base spec.

    `holds_out` tells whether its epoch and rate are chosen on a part of its own labels.
    """
    arm, labels = arm_of(spec, cell.condition.arm), cell.condition.labels
    longer = spec.labels[-1] / labels
    changes: Changes = {
        "backbone.freeze": arm.freeze,
        "train.epochs": round(arm.epochs * longer),
        "train.optimizer.lr": cell.rate,
        "train.seed": cell.seed,
    }
    if arm.patience is not None:
        patience = round(arm.patience * longer)
        changes["train.early_stopping"] = {"metric": "loss", "patience": patience}
    if cell.backbone:
        other = spec.backbones[cell.backbone].model_dump(mode="json")
        changes |= {"preprocess": other.pop("preprocess")}
        changes |= {f"backbone.{key}": value for key, value in other.items()}
    if cell.condition.arm == "scratch":
        changes |= {"backbone.weights": "none", "backbone.weights_sha256": None}
    if labels != 1.0 or isinstance(labels, int):
        changes["dataset.labels"] = labels
    if holds_out:
        changes["dataset.holdout"] = spec.holdout
    if "dataset.labels" in changes or holds_out:
        changes["dataset.labels_seed"] = cell.seed
    return changes


def chosen_epoch(record: TrialRecord) -> TrialEpoch | None:
    """Return the epoch of a training whose weights are tested; None: it gave no usable weights."""
    return best_epoch(record, METRIC, MODE)


def chosen_rates(trained: Iterable[tuple[Cell, TrialRecord]]) -> ChosenRates:
    """Return for each backbone and condition the rate whose best epoch validates best.

    A rate at which training diverged is never chosen; where all diverged, the lowest is.
    """
    losses: dict[tuple[int, Condition], list[tuple[float, float]]] = {}
    for cell, record in trained:
        epoch = chosen_epoch(record)
        loss = epoch.val["loss"] if epoch else float("inf")
        losses.setdefault((cell.backbone, cell.condition), []).append((loss, cell.rate))
    return {condition: min(by_rate)[1] for condition, by_rate in losses.items()}
