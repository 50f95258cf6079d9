"""What a transfer report concludes from predictions; the trainings are made up."""

import numpy as np
import pytest

from colours import colour_spec, transfer_document
from graft.report.answers import Measured, answer
from graft.report.corruptions import CORRUPTIONS, STRENGTHS
from graft.report.design import Cell, first_cells, other_cells
from graft.spec import TransferReport, parse_job
from graft.sweep.results import TrialRecord

LABELS = np.repeat([0, 1], [30, 20])
"""Of the test images: 60 % are of the commonest class."""


def spec() -> TransferReport:
    backbone = {"arch": "squeezenet1_1", "weights": "a/pretrained.pth", "freeze": "all"}
    base = colour_spec(backbone=backbone, augment={"kind": "none"})
    document = transfer_document(base, epochs=3, labels=[1.0])
    return parse_job(document, "test", TransferReport)


def measured(cell: Cell, wrong: int) -> Measured:
    """Return a training that is wrong on the last images of each class, and one more by seed."""
    right = np.ones(len(LABELS), bool)
    for label in (0, 1):
        own = np.flatnonzero(label == LABELS)
        right[own[len(own) - wrong :]] = False
    right[cell.seed] = False
    predicted = np.where(right, LABELS, 1 - LABELS)
    losses = (0.6, 0.4, 0.5)
    epochs = [
        {"epoch": n, "train": {}, "val": {"loss": loss, "accuracy": 1 - loss}}
        for n, loss in enumerate(losses, 1)
    ]
    record = {"number": 1, "id": "x", "changes": {}, "state": "finished", "epochs": epochs}
    return Measured(
        cell=cell,
        images=40,
        record=TrialRecord.model_validate(record | {"seconds": 3.0, "ended_s": 1.0}),
        labels=LABELS,
        logits=np.eye(2, dtype=np.float32)[predicted] * 4,
        train_accuracy=1.0,
        corrupted={name: np.tile(right.astype(float), (len(STRENGTHS), 1)) for name in CORRUPTIONS},
    )


@pytest.mark.parametrize(("wrong", "learned"), [(10, False), (5, True)])
def test_scratch_that_learned_nothing_is_named(wrong: int, learned: bool) -> None:
    asked = spec()
    cells = first_cells(asked)
    cells += other_cells(asked, {(cell.backbone, cell.budget): cell.rate for cell in cells})
    ones = [measured(cell, wrong if cell.budget.arm == "scratch" else 1) for cell in cells]
    (found,) = answer("r", asked, "d@1", "test", ones, [{}]).backbones
    told = [warning for warning in found.warnings if "learned nothing" in warning]
    assert told == [] if learned else "the commonest class, 60.0 %" in told[0]
    assert found.title == "squeezenet1_1 (pretrained.pth)"
    assert found.take == "features"
    assert {gain.outcome for gain in found.gains} == {"better"}
    (_, *others) = found.generalisation
    assert all(one.against and one.against["gap"].outcome == "better" for one in others)
    assert {when.reached for when in found.plateaus} == {5}
