"""Classification metrics, computed from sums that add up over workers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TOP = 5


@dataclass
class Tally:
    """Sums over the images seen so far; the sums of all workers make the whole.

    confusion: (C, C) int64, rows are true classes, columns predictions.
    sums: (2,) float64, the summed loss and the number of top-5 hits.
    """

    confusion: Tensor
    sums: Tensor

    @classmethod
    def empty(cls, classes: int, device: torch.device) -> "Tally":
        """Start at zero."""
        return cls(
            torch.zeros(classes, classes, dtype=torch.int64, device=device),
            torch.zeros(2, dtype=torch.float64, device=device),
        )

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,), losses (B,), weights (B,) of 0 or 1."""
        classes = len(self.confusion)
        real = weights > 0  # selects by multiplication: a boolean index makes a GPU wait
        cells = labels * classes + logits.argmax(1)
        self.confusion.view(-1).scatter_add_(0, cells, real.long())
        self.sums[0] += losses.double().sum()
        if classes > TOP:
            hits = (logits.topk(TOP, dim=1).indices == labels[:, None]).any(1)
            self.sums[1] += (hits & real).sum()

    def summary(self) -> dict[str, float]:
        """Return loss and accuracy."""
        count = int(self.confusion.sum())
        return {
            "loss": float(self.sums[0]) / count,
            "accuracy": int(self.confusion.trace()) / count,
        }

    def metrics(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return loss, accuracy, macro-F1, recall per class and the confusion matrix.

        Macro-F1 is the mean over classes that occur among labels or predictions; a class
        without validation images has recall null.
        """
        confusion = self.confusion.cpu().numpy()
        hits, labelled = np.diag(confusion), confusion.sum(1)
        either = labelled + confusion.sum(0)
        occurring = either > 0
        recall = [int(h) / int(n) if n else None for h, n in zip(hits, labelled, strict=True)]
        found: dict[str, Any] = self.summary()
        if len(classes) > TOP:
            found["top5_accuracy"] = float(self.sums[1]) / int(labelled.sum())
        return found | {
            "macro_f1": float(np.mean(2 * hits[occurring] / either[occurring])),
            "recall": dict(zip(classes, recall, strict=True)),
            "confusion": confusion.tolist(),
        }


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image: logits (B, C), labels (B,) to (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")
