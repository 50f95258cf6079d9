"""The design of a transfer report: which trainings there are; pure.

A cell is one arm, label budget and seed. Arms are paired: cells of one budget and seed learn from
the same images. A budget's learning rate is chosen on the first seed, and used for all.
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

    arm: str
    labels: float
    seed: int
    rate: float

    @property
    def budget(self) -> Budget:
        """Its arm and budget."""
        return Budget(self.arm, self.labels)


def arm_of(spec: TransferReport, name: str) -> Arm:
    """Return an arm by its name."""
    arm: Arm = getattr(spec.arms, name)
    return arm


def budgets(spec: TransferReport) -> list[Budget]:
    """Return all arms at all budgets."""
    return [Budget(arm, labels) for arm in ARMS for labels in spec.labels]


def first_cells(spec: TransferReport) -> list[Cell]:
    """Return the trainings of the first seed, at every rate."""
    return [
        Cell(budget.arm, budget.labels, 0, rate)
        for budget in budgets(spec)
        for rate in arm_of(spec, budget.arm).rates
    ]


def other_cells(spec: TransferReport, rates: Mapping[Budget, float]) -> list[Cell]:
    """Return the trainings of all other seeds, at the rates that were chosen."""
    return [
        Cell(budget.arm, budget.labels, seed, rates[budget])
        for budget in budgets(spec)
        for seed in range(1, spec.seeds)
    ]


def changes_of(spec: TransferReport, cell: Cell, holds_out: bool) -> Changes:
    """Return what a cell changes of the report's base; `holds_out`: whether it is tuned on a part
    of its own labels.
    """
    arm = arm_of(spec, cell.arm)
    changes: Changes = {
        "backbone.freeze": arm.freeze,
        "train.epochs": arm.epochs,
        "train.optimizer.lr": cell.rate,
        "train.seed": cell.seed,
    }
    if cell.arm == "scratch":
        changes |= {"backbone.weights": "none", "backbone.weights_sha256": None}
    if cell.labels != 1.0 or isinstance(cell.labels, int):
        changes["dataset.labels"] = cell.labels
    if holds_out:
        changes["dataset.holdout"] = spec.holdout
    if "dataset.labels" in changes or holds_out:
        changes["dataset.labels_seed"] = cell.seed
    return changes


def chosen_rates(
    spec: TransferReport, trained: Iterable[tuple[Cell, TrialRecord]]
) -> dict[Budget, float]:
    """Return for each arm and budget the rate whose best epoch validates best, on the first seed.

    A rate at which training diverged is never chosen, unless all did: then it is the lowest.
    """
    found: dict[Budget, tuple[float, float]] = {}
    for cell, record in trained:
        epoch = best_epoch(record, METRIC, MODE)
        loss = epoch.val["loss"] if epoch else float("inf")
        found[cell.budget] = min(
            found.get(cell.budget, (float("inf"), cell.rate)), (loss, cell.rate)
        )
    return {budget: rate for budget, (_, rate) in found.items()}
