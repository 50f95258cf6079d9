"""How good predictions are: computes the figures that `scores` defines; pure.

scikit-learn and SciPy compute all but `reliability` and `expected_calibration_error`, which take
bins and error from training's metrics.
"""

import math

import numpy as np
import torch
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
from graft.training.confusion_matrix import ConfusionMatrix
from graft.training.metrics import (
    BINS,
    TOP,
    calibration_error,
    calibration_sums,
    confidence_bins,
)

MOST_WRONG = 24
"""Images that are listed as confidently wrong."""


def compute_scores(predictions: Predictions) -> Scores:
    """Return how good predictions are."""
    labels, predicted = predictions.labels, predictions.predicted
    count, hits = len(labels), int(predictions.right.sum())
    classes = np.arange(len(predictions.classes))
    confidence = predictions.probabilities.max(axis=1)
    top5 = None
    if len(classes) > TOP:
        top5 = float(top_k_accuracy_score(labels, predictions.logits, k=TOP, labels=classes))
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
        ece=expected_calibration_error(confidence, predictions.right),
        classes=_by_class(predictions),
        reliability=reliability(confidence, predictions.right),
        wrong=_most_wrong(predictions),
    )


def count_confusions(predictions: Predictions) -> ConfusionMatrix:
    """Return how often images of each class were predicted to be of each."""
    classes = np.arange(len(predictions.classes))
    counts = confusion_matrix(predictions.labels, predictions.predicted, labels=classes)
    return ConfusionMatrix(predictions.classes, counts)


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's interval of the share ``hits / count``."""
    wilson = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Interval(low=float(wilson.low), high=float(wilson.high))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Sort images by confidence into `BINS` bins of equal width: confidence (N,), right (N,)."""
    bin_of_image = confidence_bins(torch.from_numpy(confidence)).numpy()
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


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the debiased calibration error: confidence (N,), right (N,)."""
    top, hits = torch.from_numpy(confidence), torch.from_numpy(right)
    return calibration_error(calibration_sums(top, hits, torch.ones_like(top)))


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
