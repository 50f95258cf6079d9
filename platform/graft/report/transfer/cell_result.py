"""What a transfer report keeps of one trained cell; `run` measures it, `answers` concludes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.report.transfer.design import Cell, chosen_epoch
from graft.sweep.sweep_records import TrialRecord


@dataclass(frozen=True)
class CellResult:
    """A trained cell, tried on images on which nothing was tuned."""

    cell: Cell
    images: int
    """Number of images that it trained on."""
    record: TrialRecord
    labels: NDArray[np.int64]
    """True classes of the test images: (N,)."""
    right: NDArray[np.float64]
    """1 where a test image was predicted right: (N,)."""
    ece: float
    """Calibration error on the test images."""
    train_accuracy: float | None
    """Accuracy on its training images, without augmentation; None: not at the largest budget."""
    corrupted: Mapping[str, NDArray[np.float64]]
    """By corruption, 1 where a corrupted test image was predicted right: (strengths, N)."""

    @property
    def epoch(self) -> int:
        """The epoch whose weights were tried; 0: none gave usable weights."""
        epoch = chosen_epoch(self.record)
        return epoch.epoch if epoch else 0
