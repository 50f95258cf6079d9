"""Calibrating a version: its probabilities are then as often right as they say."""

from collections.abc import Callable

import numpy as np

from graft.data.manifest import DatasetVersion
from graft.decisions.calibration import (
    LEAST_FOLDS,
    NONE,
    Calibration,
    cross_fitted,
    fit_calibration,
)
from graft.decisions.records import Decision, DecisionDraft, record_decision
from graft.errors import NotShown
from graft.registry import ModelVersion
from graft.report.decision.held_out import folds_of, held_out, untrained
from graft.report.decision.measured import Measured, judge
from graft.report.decision.page import page_files
from graft.report.evaluation.evaluate import evaluate, predictions_of
from graft.report.evaluation.predictions import Predictions
from graft.report.uses import record_use
from graft.spec import Scaling
from graft.store import Store


def calibrate_version(
    store: Store,
    version: ModelVersion,
    dataset: DatasetVersion,
    scaling: Scaling,
    progress: Callable[[int, int], object],
) -> Decision:
    """Fit a calibration, and record it as the version's next decision.

    It is fitted on the `calibrate` part of test and measured on the part that judges. Without test
    images it is fitted on those of validation, and measured on each by what was fitted without it.
    Images that the version has seen do nothing; of validation such that chose its epoch do.

    Raises:
        NotShown: there are too few images, or no calibration is shown to help.
        InputError: as `evaluate`.
    """
    judging: Predictions | None = None
    if dataset.images("test"):
        parts = held_out(store, version, dataset, scaling, progress)
        fitting, judging, left_out = parts.calibrating, parts.judging, parts.left_out
    else:
        report = evaluate(store, version, dataset, "val", scaling, progress)
        fitting, left_out = untrained(store, version, predictions_of(store, report))
    calibration, crossed = _fit(version, fitting, left_out)
    measured = crossed if judging is None else Measured.of(judging, calibration)
    of = fitting if judging is None else judging
    name = f"{version.name}-{version.version}-calibrates"
    draft = DecisionDraft(
        model=version.ref,
        calibration=calibration,
        dataset=dataset.manifest.ref,
        split=fitting.split,
        fitted_on=len(fitting.images),
        used_before=record_use(store, dataset, of.split, of.images, name),
        left_out=left_out,
        held=judging and judge(judging, calibration, DecisionDraft(model=version.ref).rule),
        error_before=measured.error_before,
        error_after=measured.error_after,
        crossed=judging is None,
    )
    return record_decision(store, version, draft, page_files(draft, measured))


def _fit(
    version: ModelVersion, fitting: Predictions, left_out: tuple[str, ...]
) -> tuple[Calibration, Measured]:
    """Return a calibration, and the same images by what was fitted without each.

    By these it is taken or refused: images that judge would else have chosen what they judge.

    Raises:
        NotShown: there are too few images; none helps; or it makes images less likely that it does
            not come from.
    """
    folds, count = folds_of(fitting.images), len(fitting.images)
    if len(np.unique(folds)) < LEAST_FOLDS:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise NotShown(
            f"{fitting.dataset} has {count:,} images in split '{fitting.split}' that may calibrate "
            f"{version.ref}{why}: too few to leave some out in turn; import more"
        )
    calibration = fit_calibration(fitting.logits, fitting.labels, folds)
    before = NONE.apply(fitting.logits)
    if calibration.method == "none":
        error = Measured(fitting.labels, before, before).error_before
        raise NotShown(
            f"no calibration of {version.ref} is shown to help by {count:,} images (their "
            f"calibration error is {error:.4f}), so none is recorded; its probabilities stay as "
            "they are"
        )
    after = cross_fitted(fitting.logits, fitting.labels, folds)
    crossed = Measured(fitting.labels, before, after)
    if crossed.is_worse:
        raise NotShown(
            f"the calibration of {version.ref} by {count:,} images ({calibration}) makes images "
            f"that it does not come from less likely (calibration error {crossed.error_before:.4f},"
            f" {crossed.error_after:.4f} with it, each left out in turn), so it is not recorded; "
            "import more images"
        )
    return calibration, crossed
