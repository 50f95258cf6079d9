"""From predictions to how good they are; pure.

scikit-learn and SciPy compute what they have; `reliability` bins as training's own metrics do.
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

from graft.report.predictions import Predictions
from graft.report.scores import LEVEL, Bin, ClassScores, Interval, Scores, WrongImage
from graft.training.metrics import BINS, TOP

MOST_WRONG = 24
"""Images that are listed as confidently wrong."""


def score(predictions: Predictions) -> Scores:
    """Return how good predictions are."""
    labels, predicted = predictions.labels, predictions.predicted
    count, hits = len(labels), int(predictions.right.sum())
    places = np.arange(len(predictions.classes))
    bins = reliability(predictions.probabilities.max(axis=1), predictions.right)
    top5 = None
    if len(places) > TOP:
        top5 = float(top_k_accuracy_score(labels, predictions.logits, k=TOP, labels=places))
    confusion = confusion_matrix(labels, predicted, labels=places)
    return Scores(
        model=predictions.model,
        dataset=predictions.dataset,
        split=predictions.split,
        images=count,
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
    """Return Wilson's interval of a share."""
    found = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Interval(low=float(found.low), high=float(found.high))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Sort images into `BINS` bins of equal width: confidence (N,) and right (N,)."""
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        some = bool(inside.any())
        bins.append(
            Bin(
                low=place / BINS,
                high=(place + 1) / BINS,
                images=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if some else None,
                accuracy=float(right[inside].mean()) if some else None,
            )
        )
    return tuple(bins)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance of confidence and accuracy, bins weighed by their images."""
    gaps = [b.images * abs((b.confidence or 0.0) - (b.accuracy or 0.0)) for b in bins]
    return math.fsum(gaps) / sum(b.images for b in bins)


def _by_class(predictions: Predictions) -> tuple[ClassScores, ...]:
    precision, recall, f1, images = precision_recall_fscore_support(
        predictions.labels,
        predictions.predicted,
        labels=np.arange(len(predictions.classes)),
        zero_division=np.nan,
    )
    rows = zip(predictions.classes, images, recall, precision, f1, strict=True)
    return tuple(
        ClassScores(
            name=name,
            images=int(count),
            recall=_number(found),
            precision=_number(exact),
            f1=_number(both),
        )
        for name, count, found, exact, both in rows
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
    return None if math.isnan(value) else float(value)
