"""Evaluating a model version on a split: once and for all, since neither ever changes."""

import shlex
from collections.abc import Callable

import torch

from graft.data.image import decode
from graft.data.manifest import DatasetVersion
from graft.registry import ModelVersion, Outcome, Verdict, record_verdict
from graft.report.charts import chart_files, embedded_charts
from graft.report.evaluation.classes import check_classes
from graft.report.evaluation.comparison import Comparison, compare
from graft.report.evaluation.compute_scores import compute_scores
from graft.report.evaluation.predictions import (
    Predictions,
    from_parquet,
    predict_split,
    to_parquet,
)
from graft.report.evaluation.reliability_chart import reliability_figure
from graft.report.page import render_page, thumbnail
from graft.report.publishing import (
    PAGE,
    Report,
    evaluation_id,
    has_report,
    publish_report,
    read_report,
)
from graft.serving.predictor import Predictor
from graft.store import Store
from graft.training.charts import confusion_figure

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
    threads: int,
    progress: Callable[[int, int], object],
) -> Report:
    """Return the report on a version and a split, made now if the store has none.

    Args:
        store: where both are, and where the report goes.
        version: the model.
        dataset: the images.
        split: ``train``, ``val`` or ``test``.
        threads: number of threads that decode images, and of threads that compute.
        progress: called after each batch with the number of images done, and of all images.

    Raises:
        InputError: the split has no images, or classes that the model does not know.
        ServingError: the model does not give the outputs recorded for its golden images.
    """
    report = evaluation_id(version, dataset.manifest, split)
    if has_report(store, report):
        return read_report(store, report)
    torch.set_num_threads(threads)
    device = torch.device("cuda") if torch.cuda.is_available() else None
    predictor = Predictor.load(store, version, device)
    predictions = predict_split(predictor, dataset, split, threads, progress)
    scores = compute_scores(predictions)
    figures = {
        "confusion": confusion_figure(scores.confusion, version.classes),
        "reliability": reliability_figure(scores.reliability, scores.ece),
    }
    files = chart_files(figures) | {PREDICTIONS: to_parquet(predictions)}
    images = {image.sha256: image for image in dataset.images(split)}
    files[PAGE] = render_page(
        "evaluation.html.j2",
        s=scores,
        report=report,
        run=version.lineage.run,
        predictions=PREDICTIONS,
        command=shlex.join(
            ["graft", "evaluate", scores.model, "--dataset", scores.dataset, "--split", split]
        ),
        wrong=[
            (wrong, thumbnail(decode(dataset.read(images[wrong.sha256])))) for wrong in scores.wrong
        ],
        **embedded_charts(figures),
    )
    return publish_report(store, report, "evaluation", scores, files)


def compare_versions(
    store: Store,
    first: ModelVersion,
    second: ModelVersion,
    dataset: DatasetVersion,
    split: str,
    threads: int,
    progress: Callable[[int, int], object],
) -> Comparison:
    """Evaluate two versions on a split, compare them, and record a verdict with each.

    A comparison on training images shows nothing of new ones: it records no verdict.

    Raises:
        InputError: as `evaluate`; or the versions have different classes, or are the same.
    """
    check_classes(first, second)
    predictions = [
        predictions_of(store, evaluate(store, version, dataset, split, threads, progress))
        for version in (first, second)
    ]
    comparison = compare(*predictions)
    if split != "train":
        evaluation = evaluation_id(second, dataset.manifest, split)
        report = f"{first.name}-{first.version}-against-{evaluation}"
        for version, against, outcome in (
            (second, first, comparison.outcome),
            (first, second, _REVERSED[comparison.outcome]),
        ):
            verdict = Verdict(
                against=against.ref, outcome=outcome, why=str(comparison), report=report
            )
            record_verdict(store, version.ref, verdict)
    return comparison


def predictions_of(store: Store, report: Report) -> Predictions:
    """Return the predictions that an evaluation stored with its figures."""
    return from_parquet(store.get(report.folder, report.files[PREDICTIONS]))
