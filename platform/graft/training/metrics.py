"""Classification metrics, computed from sums that add up over workers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TOP = 5
BINS = 15
"""Bins of equal width for the calibration error; Guo et al. (2017), arXiv:1706.04599."""


def confidence_bins(top: Tensor) -> Tensor:
    """Return the bin of each top probability: (B,); bin m holds (m / BINS, (m + 1) / BINS]."""
    # What rounded to just above 1 belongs in the last; NaN, of a model that diverged, has to land
    # somewhere.
    return ((top * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def calibration_sums(top: Tensor, hits: Tensor, weights: Tensor) -> Tensor:
    """Return the sums over bins that `calibration_error` takes: (3, BINS) float64.

    Args:
        top: top probability of each image, (B,).
        hits: whether it was predicted right, (B,).
        weights: 0 or 1, (B,).
    """
    distances = (hits.double() - top) * weights
    sums = torch.zeros(3, BINS, dtype=torch.float64, device=top.device)
    terms = torch.stack([weights.double(), distances, distances**2])
    return sums.scatter_add_(1, confidence_bins(top).expand(3, -1), terms)


def calibration_error(sums: Tensor) -> float:
    """Return the root mean square distance of confidence and accuracy within bins, debiased.

    The plain distance is above 0 by chance alone, the more so the fewer images a bin has. Products
    of two different images' distances have no such bias: the square is right on average (Ferro &
    Fricker, QJRMS 138, 2012; Kumar, Liang & Ma 2019, arXiv:1909.10155). Where it is below 0, as it
    is for half of the calibrated models, the error is 0.

    Args:
        sums: by bin, the number of images, the sum of hit less top probability, and that of its
            square: (3, BINS).
    """
    images, distances, squares = sums
    several = images > 1  # one image alone says nothing
    pairs = (distances**2 - squares)[several] / (images - 1)[several]
    return float((pairs.sum() / images.sum()).clamp(min=0).sqrt())  # NaN stays NaN


def mean_distance(sums: Tensor) -> float:
    """Return the mean distance of confidence and accuracy within bins: that of Guo et al. (2017).

    It is above 0 by chance alone, but less noisy than `calibration_error`: of two calibrations of
    the same images it tells better which has the larger error.

    Args:
        sums: as `calibration_error` takes them.
    """
    images, distances, _ = sums
    return float(distances.abs().sum() / images.sum())


@dataclass
class Tally:
    """Sums over the images that one worker has seen; added over workers, they are of all images.

    confusion: (C, C) int64, rows are true classes, columns predictions.
    sums: (2,) float64, the summed loss and the number of top-5 hits.
    bins: (3, BINS) float64, by top probability: as `calibration_error` takes them.
    """

    confusion: Tensor
    sums: Tensor
    bins: Tensor

    @classmethod
    def empty(cls, classes: int, device: torch.device) -> "Tally":
        """Start at zero."""
        return cls(
            torch.zeros(classes, classes, dtype=torch.int64, device=device),
            torch.zeros(2, dtype=torch.float64, device=device),
            torch.zeros(3, BINS, dtype=torch.float64, device=device),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all sums, to be added up over workers in place."""
        return self.confusion, self.sums, self.bins

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,), losses (B,), weights (B,) of 0 or 1."""
        classes = len(self.confusion)
        real = weights > 0  # selects by multiplication: a boolean index makes a GPU wait
        predicted = logits.argmax(1)
        cells = labels * classes + predicted
        self.confusion.view(-1).scatter_add_(0, cells, real.long())
        self.sums[0] += (losses * real).double().sum()
        if classes > TOP:
            hits = (logits.topk(TOP, dim=1).indices == labels[:, None]).any(1)
            self.sums[1] += (hits & real).sum()
        top = logits.float().softmax(1).amax(1).double()
        self.bins += calibration_sums(top, predicted == labels, real)

    def summary(self) -> dict[str, float]:
        """Return loss and accuracy."""
        count = int(self.confusion.sum())
        return {
            "loss": float(self.sums[0]) / count,
            "accuracy": int(self.confusion.trace()) / count,
        }

    def metrics(self) -> dict[str, float]:
        """Return all metrics that are one number.

        Macro-F1 is the mean over classes that occur among labels or predictions. ECE is the
        `calibration_error`; top-5 accuracy is left out with five classes or fewer.
        """
        confusion = self.confusion.cpu().numpy()
        hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        either = labelled + predicted
        occurring = either > 0
        metrics = self.summary()
        if len(confusion) > TOP:
            metrics["top5_accuracy"] = float(self.sums[1]) / int(labelled.sum())
        return metrics | {
            "macro_f1": float(np.mean(2 * hits[occurring] / either[occurring])),
            "ece": calibration_error(self.bins),
        }


@dataclass
class TrainTally:
    """Sums over the images that one worker has trained on in an epoch; they add up over workers.

    sums: (3,) float64, the number of images, of those predicted right, and the summed loss.
    """

    sums: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> "TrainTally":
        """Start at zero."""
        return cls(torch.zeros(3, dtype=torch.float64, device=device))

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,), losses (B,), weights (B,) of 0 or 1."""
        real = weights > 0
        hits = (logits.argmax(1) == labels) & real
        self.sums[0] += real.sum()
        self.sums[1] += hits.sum()
        self.sums[2] += (losses * real).double().sum()

    def summary(self) -> dict[str, float]:
        """Return loss and accuracy."""
        images, hits, loss = self.sums.tolist()
        return {"loss": loss / images, "accuracy": hits / images}


def image_losses(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each image: logits (B, C) to (B,).

    targets: labels (B,), or probabilities (B, C); class_weights: (C,), those of an image's
    targets multiply its loss.
    """
    return functional.cross_entropy(
        logits, targets, class_weights, reduction="none", label_smoothing=label_smoothing
    )
