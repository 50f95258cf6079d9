"""A transfer report whose trainings are made up: its conclusions need no real ones."""

from collections.abc import Mapping

import numpy as np

from colours import colour_spec, transfer_document
from graft.report.transfer.answers import Answers, answer
from graft.report.transfer.cell_result import CellFigures, CellResult
from graft.report.transfer.corruptions import CORRUPTIONS, STRENGTHS
from graft.report.transfer.design import Cell, Way, first_cells, other_cells
from graft.spec import TransferReport, UniformRates, parse_job
from graft.store import ObjectRef
from graft.sweep.sweep_records import TrialRecord

LABELS = np.repeat([0, 1], [30, 20])
"""Labels of the test images: 60 % are of the commonest class."""
SHA256 = 32 * "ab"
"""SHA-256 of the weights that it transfers from."""


def recorded_spec(**changes: object) -> TransferReport:
    """Return a report's spec: one label budget, five seeds, but for the changes."""
    base = colour_spec(
        backbone={"arch": "squeezenet1_1", "weights": "a/pretrained.pth", "freeze": "all"},
        backbone__weights_sha256=SHA256,
        augment={"kind": "none"},
    )
    document = transfer_document(base, epochs=3, labels=[1.0], **changes)
    return parse_job(document, "test", TransferReport)


def made_up_result(spec: TransferReport, cell: Cell, wrong: int) -> CellResult:
    """Return a training that is wrong on the last images of each class, and one more by seed."""
    right = np.ones(len(LABELS), bool)
    for label in (0, 1):
        of_class = np.flatnonzero(label == LABELS)
        right[of_class[len(of_class) - wrong :]] = False
    right[cell.seed] = False
    losses = (0.6, 0.4, 0.5)
    epochs = [
        {"epoch": n, "train": {}, "val": {"loss": loss, "accuracy": 1 - loss}}
        for n, loss in enumerate(losses, 1)
    ]
    record = {"number": 1, "id": "x", "changes": {}, "state": "finished", "epochs": epochs}
    figures = CellFigures(
        report="r",
        images=40,
        tuned=10,
        ece=abs(0.98 - float(right.mean())),
        train_accuracy=1.0,
        epoch_s=None if cell.seed else 2.0,
        way=None if cell.seed else way(spec, cell),
        hits=ObjectRef(name="hits", size=1, sha256=32 * "00"),
    )
    return CellResult(
        cell=cell,
        record=TrialRecord.model_validate(record | {"seconds": 3.0, "ended_s": 1.0}),
        figures=figures,
        labels=LABELS,
        right=right,
        corrupted={name: np.tile(right, (len(STRENGTHS), 1)) for name in CORRUPTIONS},
    )


def answers(report: str, spec: TransferReport, *wrong: Mapping[str, int]) -> Answers:
    """Return a report's answers where each arm is wrong on so many images of each class.

    `wrong` is of each backbone.
    """
    cells = first_cells(spec)
    cells += other_cells(spec, {(cell.backbone, cell.condition): cell.rate for cell in cells})
    results = [
        made_up_result(spec, cell, wrong[cell.backbone][cell.condition.arm]) for cell in cells
    ]
    return answer(report, spec, "colours@1", "test", results)


DEPTHS = {"features": 3, "partial": 1, "full": 0}


def way(spec: TransferReport, cell: Cell) -> Way | None:
    """Return how a cell trains a network of three stages; None from scratch."""
    backbone, arm = spec.backbones[cell.backbone], cell.condition.arm
    if arm == "scratch":
        return None
    return Way(
        arm=arm,
        freeze=DEPTHS[arm],
        trunk_digest=32 * f"c{DEPTHS[arm]}",
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        head=spec.base.head,
        rates=UniformRates().model_dump(mode="json"),
    )
