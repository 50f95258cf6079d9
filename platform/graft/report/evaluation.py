"""Evaluating a model version on a split: once for all, since neither ever changes."""

import shlex
from collections.abc import Callable

import torch

from graft.data.image import decode
from graft.data.manifest import DatasetVersion
from graft.registry import ModelVersion, Outcome, Verdict, record_verdict
from graft.report.charts import reliability_figure
from graft.report.classes import check_classes
from graft.report.comparison import Comparison, compare
from graft.report.page import data_uri, render_page, thumbnail
from graft.report.predictions import (
    Predictions,
    from_parquet,
    predict_split,
    to_parquet,
)
from graft.report.reports import (
    PAGE,
    Report,
    evaluation_id,
    has_report,
    publish_report,
    read_report,
)
from graft.report.scoring import score
from graft.serving.predictor import Predictor
from graft.store import Store
from graft.training.plots import confusion_figure, saved

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
    """Return the report on a version and a split: the one that is there, else a new one.

    Args:
        store: where both are, and where the report goes.
        version: the model.
        dataset: the images.
        split: ``train``, ``val`` or ``test``.
        threads: that decode images, and that compute.
        progress: told how many images of how many are done.

    Raises:
        InputError: the split has no images, or classes that the model does not know.
        ServingError: the model does not give its golden images' recorded outputs.
    """
    report = evaluation_id(version, dataset.manifest, split)
    if has_report(store, report):
        return read_report(store, report)
    torch.set_num_threads(threads)
    device = torch.device("cuda") if torch.cuda.is_available() else None
    predictor = Predictor.load(store, version, device)
    predictions = predict_split(predictor, dataset, split, threads, progress)
    scores = score(predictions)
    figures = {
        "confusion": confusion_figure(scores.confusion, version.classes),
        "reliability": reliability_figure(scores.reliability, scores.ece),
    }
    files = {f"{name}.png": saved(figure, "png") for name, figure in figures.items()}
    files[PREDICTIONS] = to_parquet(predictions)
    pictures = {n: data_uri(saved(f, "svg"), "svg+xml") for n, f in figures.items()}
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
        **pictures,
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
    """Evaluate two versions on a split, compare them, and keep what is shown in the registry.

    What is found on training images is no verdict.

    Raises:
        InputError: as `evaluate`; or the versions have different classes, or are the same.
    """
    check_classes(first, second)
    one, other = (
        predictions_of(store, evaluate(store, version, dataset, split, threads, progress))
        for version in (first, second)
    )
    found = compare(one, other)
    if split != "train":
        on = evaluation_id(second, dataset.manifest, split)
        name = f"{first.name}-{first.version}-against-{on}"
        for version, against, outcome in (
            (second, first, found.outcome),
            (first, second, _REVERSED[found.outcome]),
        ):
            record_verdict(
                store,
                version.ref,
                Verdict(against=against.ref, outcome=outcome, why=str(found), report=name),
            )
    return found


def predictions_of(store: Store, report: Report) -> Predictions:
    """Return what an evaluation's model made of each image."""
    return from_parquet(store.get(report.folder, report.files[PREDICTIONS]))
