"""The design of a transfer report: which trainings there are; pure.

A cell is one backbone, arm, label budget and seed. Arms are paired: cells of one budget and seed
learn from the same images. A budget's learning rate is chosen on the first seed, and used for all.
Smaller budgets get more epochs, so that all take as many steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from graft.spec import Arm, TransferReport
from graft.sweep.results import TrialRecord, best_epoch

ARMS = ("scratch", "features", "partial", "full")
METRIC, MODE = "val.loss", "min"
"""What rates and epochs are chosen by: on few images it says more than accuracy."""
Changes = dict[str, JsonValue]


@dataclass(frozen=True, order=True)
class Budget:
    """One arm at one label budget."""

    arm: str
    labels: float
    """As in the spec: a share, or a number of each class."""


@dataclass(frozen=True)
class Cell:
    """One training that counts."""

    backbone: int
    """Its place among the report's."""
    budget: Budget
    seed: int
    rate: float


def arm_of(spec: TransferReport, name: str) -> Arm:
    """Return an arm by its name."""
    arm: Arm = getattr(spec.arms, name)
    return arm


def first_cells(spec: TransferReport) -> list[Cell]:
    """Return the trainings of the first seed, at every rate."""
    return [
        Cell(backbone, budget, 0, rate)
        for backbone, budget in _places(spec)
        for rate in arm_of(spec, budget.arm).rates
    ]


def other_cells(spec: TransferReport, rates: Mapping[tuple[int, Budget], float]) -> list[Cell]:
    """Return the trainings of all other seeds, at the rates that were chosen."""
    return [
        Cell(*place, seed, rates[place]) for place in _places(spec) for seed in range(1, spec.seeds)
    ]


def _places(spec: TransferReport) -> list[tuple[int, Budget]]:
    """Return every backbone's arms at all label budgets."""
    return [
        (backbone, Budget(arm, labels))
        for backbone in range(len(spec.backbones))
        for arm in ARMS
        for labels in spec.labels
    ]


def changes_of(spec: TransferReport, cell: Cell, holds_out: bool) -> Changes:
    """Return what a cell changes of the report's base; `holds_out`: whether it is tuned on a part
    of its own labels.
    """
    arm, labels = arm_of(spec, cell.budget.arm), cell.budget.labels
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
    if cell.budget.arm == "scratch":
        changes |= {"backbone.weights": "none", "backbone.weights_sha256": None}
    if labels != 1.0 or isinstance(labels, int):
        changes["dataset.labels"] = labels
    if holds_out:
        changes["dataset.holdout"] = spec.holdout
    if "dataset.labels" in changes or holds_out:
        changes["dataset.labels_seed"] = cell.seed
    return changes


def chosen_rates(
    trained: Iterable[tuple[Cell, TrialRecord]],
) -> dict[tuple[int, Budget], float]:
    """Return for each backbone, arm and budget the rate whose best epoch validates best.

    A rate at which training diverged is never chosen, unless all did: then it is the lowest.
    """
    found: dict[tuple[int, Budget], tuple[float, float]] = {}
    for cell, record in trained:
        epoch = best_epoch(record, METRIC, MODE)
        loss = epoch.val["loss"] if epoch else float("inf")
        place = cell.backbone, cell.budget
        found[place] = min(found.get(place, (float("inf"), cell.rate)), (loss, cell.rate))
    return {place: rate for place, (_, rate) in found.items()}
