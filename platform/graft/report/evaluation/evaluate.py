"""Evaluating a model version on a split: once and for all, since neither ever changes."""

import shlex
from collections.abc import Callable

import numpy as np

from graft.backbones.process_setup import set_up_process
from graft.data.image import decode
from graft.data.manifest import DatasetVersion
from graft.errors import InputError
from graft.registry import ModelVersion, Outcome, Verdict, record_verdict
from graft.report.charts import chart_files, embedded_charts
from graft.report.evaluation.classes import check_classes
from graft.report.evaluation.comparison import Comparison, compare_unseen
from graft.report.evaluation.compute_scores import compute_scores, count_confusions
from graft.report.evaluation.predictions import (
    Predictions,
    from_parquet,
    predict_split,
    to_parquet,
)
from graft.report.evaluation.reliability_chart import reliability_figure
from graft.report.evaluation.scores import Scores
from graft.report.page import render_page, thumbnail
from graft.report.publishing import (
    PAGE,
    Report,
    evaluation_id,
    has_report,
    publish_report,
    read_report,
)
from graft.report.seen_images import seen_by, told_apart
from graft.report.uses import part_that_judges, record_use, used_already
from graft.serving.predictor import Predictor
from graft.spec import Scaling
from graft.store import Store
from graft.training.charts import confusion_figure
from graft.training.confusion_matrix import FILE as CONFUSION
from graft.training.confusion_matrix import ConfusionMatrix

PREDICTIONS = "predictions.parquet"
_REVERSED: dict[Outcome, Outcome] = {
    "better": "worse",
    "worse": "better",
    "not shown": "not shown",
}


def evaluate(
    store: Store,
    version: ModelVersion,
    dataset: DatasetVersion,
    split: str,
    scaling: Scaling,
    progress: Callable[[int, int], object],
) -> Report:
    """Return the report on a version and a split, made now if the store has none.

    Figures are of images that the model has not seen, on test of the half that judges; where it has
    seen all, they are of these, and the report says so. Predictions are stored of all images.

    Args:
        store: where both are, and where the report goes.
        version: the model.
        dataset: the images.
        split: ``train``, ``val`` or ``test``.
        scaling: the CPUs and GPUs of one worker: as many threads decode as compute, and without a
            GPU nothing is computed on one.
        progress: called after each batch with the number of images done, and of all images.

    Raises:
        InputError: the split has no images, or classes that the model does not know.
        ResourceError: `scaling` has a GPU, and there is none here.
        ServingError: the model does not give the outputs recorded for its golden images.
    """
    report = evaluation_id(version, dataset.manifest, split)
    if has_report(store, report):
        return read_report(store, report)
    device = set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker)
    predictor = Predictor.load(store, version, device, decides=False)
    predictions = predict_split(predictor, dataset, split, scaling.cpus_per_worker, progress)
    judging = _judging(predictions)
    judged, seen = _unseen(store, version, judging)
    used = record_use(store, dataset, split, judged.images, report)
    scores = compute_scores(judged).model_copy(
        update={
            "part": part_that_judges(split),
            "seen": tuple(seen),
            "left_out": len(judging.images) - len(judged.images),
            "used_before": used,
        }
    )
    confusion = count_confusions(judged)
    files = _page_files(report, version, dataset, scores, confusion)
    files |= {PREDICTIONS: to_parquet(predictions), CONFUSION: confusion.to_bytes()}
    return publish_report(store, report, "evaluation", scores, files)


def _page_files(
    report: str,
    version: ModelVersion,
    dataset: DatasetVersion,
    scores: Scores,
    confusion: ConfusionMatrix,
) -> dict[str, bytes]:
    """Return the page of an evaluation and its pictures, by file name."""
    figures = {
        "confusion": confusion_figure(confusion.counts, version.classes),
        "reliability": reliability_figure(scores.reliability, scores.ece),
    }
    images = {image.sha256: image for image in dataset.images(scores.split)}
    page = render_page(
        "evaluation.html.j2",
        s=scores,
        report=report,
        run=version.lineage.run,
        predictions=PREDICTIONS,
        used_already=used_already(scores.used_before),
        command=shlex.join(
            [
                *("graft", "evaluate", scores.model),
                *("--dataset", scores.dataset, "--split", scores.split),
            ]
        ),
        wrong=[
            (wrong, thumbnail(decode(dataset.read(images[wrong.sha256])))) for wrong in scores.wrong
        ],
        **embedded_charts(figures),
    )
    return chart_files(figures) | {PAGE: page}


def compare_versions(
    store: Store,
    first: ModelVersion,
    second: ModelVersion,
    dataset: DatasetVersion,
    split: str,
    scaling: Scaling,
    progress: Callable[[int, int], object],
) -> Comparison:
    """Evaluate two versions on a split, compare them, and record a verdict with each.

    Images that trained or tuned either version do not judge. Where no others are left, nothing is
    judged, and no verdict is recorded.

    Raises:
        InputError: as `evaluate`; or the versions have different classes, or are the same.
    """
    check_classes(first, second)
    predictions = [
        _judging(predictions_of(store, evaluate(store, version, dataset, split, scaling, progress)))
        for version in (first, second)
    ]
    seen = [*seen_by(store, first), *seen_by(store, second)]
    unseen, left_out = told_apart(predictions[0].images, seen)
    comparison = compare_unseen(predictions[0], predictions[1], unseen, left_out)
    if not comparison.verdict:
        return comparison
    evaluation = evaluation_id(second, dataset.manifest, split)
    report = f"{first.name}-{first.version}-against-{evaluation}"
    judged = predictions[0].at(np.flatnonzero(unseen)).images
    used = record_use(store, dataset, split, judged, report)
    comparison = comparison.model_copy(update={"used_before": used})
    for version, against, outcome in (
        (second, first, comparison.outcome),
        (first, second, _REVERSED[comparison.outcome]),
    ):
        verdict = Verdict(
            against=against.ref,
            outcome=outcome,
            p_value=comparison.p_value,
            why=str(comparison),
            report=report,
        )
        record_verdict(store, version, verdict)
    return comparison


def _judging(predictions: Predictions) -> Predictions:
    """Return the predictions for the images that may judge.

    Raises:
        InputError: there are none.
    """
    judging = predictions.judging()
    if not judging.images:
        raise InputError(
            f"{predictions.dataset} has {len(predictions.images)} images in split "
            f"'{predictions.split}', of which half judge, by their hashes: none; import more"
        )
    return judging


def judged_predictions(store: Store, version: ModelVersion, report: Report) -> Predictions:
    """Return the predictions that an evaluation's figures are of."""
    return _unseen(store, version, _judging(predictions_of(store, report)))[0]


def _unseen(
    store: Store, version: ModelVersion, judging: Predictions
) -> tuple[Predictions, list[str]]:
    """Return the predictions for images that a version has not seen, and which it has, a line each.

    Where it has seen all, they are of these.
    """
    unseen, seen = told_apart(judging.images, seen_by(store, version))
    return judging.at(np.flatnonzero(unseen)) if any(unseen) else judging, seen


def predictions_of(store: Store, report: Report) -> Predictions:
    """Return the predictions that an evaluation stored with its figures."""
    return from_parquet(store.get(report.folder, report.files[PREDICTIONS]))
