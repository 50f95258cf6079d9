"""How good predictions are: computes the figures that `scores` defines; pure.

scikit-learn and SciPy compute all but `reliability` and `calibration_error`, which divide
confidence into the same bins as training's metrics do.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from graft.report.evaluation.predictions import Predictions
from graft.report.evaluation.scores import Bin, ClassScores, Scores, WrongImage
from graft.report.interval import LEVEL, Interval
from graft.training.metrics import BINS, TOP

MOST_WRONG = 24
"""Images that are listed as confidently wrong."""


def compute_scores(predictions: Predictions) -> Scores:
    """Return how good predictions are."""
    labels, predicted = predictions.labels, predictions.predicted
    count, hits = len(labels), int(predictions.right.sum())
    classes = np.arange(len(predictions.classes))
    bins = reliability(predictions.probabilities.max(axis=1), predictions.right)
    top5 = None
    if len(classes) > TOP:
        top5 = float(top_k_accuracy_score(labels, predictions.logits, k=TOP, labels=classes))
    confusion = confusion_matrix(labels, predicted, labels=classes)
    return Scores(
        model=predictions.model,
        dataset=predictions.dataset,
        split=predictions.split,
        images=count,
        copies=predictions.copies,
        loss=float(predictions.losses.mean()),
        accuracy=hits / count,
        accuracy_interval=share_interval(hits, count),
        top5_accuracy=top5,
        macro_f1=float(f1_score(labels, predicted, average="macro")),
        ece=calibration_error(bins),
        classes=_by_class(predictions),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        reliability=bins,
        wrong=_most_wrong(predictions),
    )


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's interval of the share ``hits / count``."""
    wilson = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Interval(low=float(wilson.low), high=float(wilson.high))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Sort images by confidence into `BINS` bins of equal width: confidence (N,), right (N,)."""
    bin_of_image = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for number in range(BINS):
        inside = bin_of_image == number
        images = int(inside.sum())
        bins.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                images=images,
                confidence=float(confidence[inside].mean()) if images else None,
                accuracy=float(right[inside].mean()) if images else None,
            )
        )
    return tuple(bins)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance of confidence and accuracy over bins, weighed by their images."""
    gaps = [b.images * abs((b.confidence or 0.0) - (b.accuracy or 0.0)) for b in bins]
    return math.fsum(gaps) / sum(b.images for b in bins)


def _by_class(predictions: Predictions) -> tuple[ClassScores, ...]:
    precisions, recalls, f1s, counts = precision_recall_fscore_support(
        predictions.labels,
        predictions.predicted,
        labels=np.arange(len(predictions.classes)),
        zero_division=np.nan,
    )
    rows = zip(predictions.classes, counts, recalls, precisions, f1s, strict=True)
    return tuple(
        ClassScores(
            name=name,
            images=int(images),
            recall=_number(recall),
            precision=_number(precision),
            f1=_number(f1),
        )
        for name, images, recall, precision, f1 in rows
    )


def _most_wrong(predictions: Predictions) -> tuple[WrongImage, ...]:
    top = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(~predictions.right)
    order = wrong[np.argsort(-top[wrong], kind="stable")][:MOST_WRONG]
    return tuple(
        WrongImage(
            sha256=predictions.images[i],
            path=predictions.paths[i],
            label=predictions.classes[predictions.labels[i]],
            predicted=predictions.classes[predictions.predicted[i]],
            probability=float(top[i]),
        )
        for i in order
    )


def _number(value: float) -> float | None:
    """Return a figure; None where it is not defined, which scikit-learn says by NaN."""
    return None if math.isnan(value) else float(value)
