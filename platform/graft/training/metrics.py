"""Classification metrics, computed from sums that add up over workers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TOP = 5
BINS = 15
"""Bins of equal width for the calibration error; Guo et al. (2017), arXiv:1706.04599."""


@dataclass
class Tally:
    """Sums over the images that one worker has seen; added over workers, they are of all images.

    confusion: (C, C) int64, rows are true classes, columns predictions.
    sums: (2,) float64, the summed loss and the number of top-5 hits.
    gaps: (BINS,) float64, by top probability: the number of hits less the summed probability.
    """

    confusion: Tensor
    sums: Tensor
    gaps: Tensor

    @classmethod
    def empty(cls, classes: int, device: torch.device) -> "Tally":
        """Start at zero."""
        return cls(
            torch.zeros(classes, classes, dtype=torch.int64, device=device),
            torch.zeros(2, dtype=torch.float64, device=device),
            torch.zeros(BINS, dtype=torch.float64, device=device),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all sums, to be added up over workers in place."""
        return self.confusion, self.sums, self.gaps

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
        # Bin m holds (m / BINS, (m + 1) / BINS]. What rounded to just above 1 belongs in the
        # last; NaN, of a model that diverged, has to land somewhere.
        bins = ((top * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self.gaps.scatter_add_(0, bins, ((predicted == labels).double() - top) * real)

    def summary(self) -> dict[str, float]:
        """Return loss and accuracy."""
        count = int(self.confusion.sum())
        return {
            "loss": float(self.sums[0]) / count,
            "accuracy": int(self.confusion.trace()) / count,
        }

    def metrics(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return all metrics, and the confusion matrix.

        Macro-F1 is the mean over classes that occur among labels or predictions; a class
        without validation images has recall null, one never predicted precision null.
        ECE is the mean distance of confidence and accuracy, both within bins of confidence.
        """
        confusion = self.confusion.cpu().numpy()
        hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        either = labelled + predicted
        occurring = either > 0
        count = int(labelled.sum())
        metrics: dict[str, Any] = self.summary()
        if len(classes) > TOP:
            metrics["top5_accuracy"] = float(self.sums[1]) / count
        return metrics | {
            "macro_f1": float(np.mean(2 * hits[occurring] / either[occurring])),
            "ece": float(self.gaps.abs().sum()) / count,
            "recall": dict(zip(classes, _shares(hits, labelled), strict=True)),
            "precision": dict(zip(classes, _shares(hits, predicted), strict=True)),
            "confusion": confusion.tolist(),
        }


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


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> list[float | None]:
    return [int(p) / int(n) if n else None for p, n in zip(parts, wholes, strict=True)]
