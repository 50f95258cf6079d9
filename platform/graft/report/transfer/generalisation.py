"""What becomes of an arm's accuracy on images unlike those it trained on; pure.

Three figures at the largest label budget: the gap between training and test images, the
calibration error, and the accuracy on corrupted images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from graft.report.evaluation.compute_scores import calibration_error, reliability
from graft.report.transfer.bootstrap import Estimate, Resampled, Resampler, Versus, versus
from graft.report.transfer.cell_result import CellResult
from graft.spec import Section


class Generalisation(Section):
    """What becomes of an arm's accuracy on images unlike its training's, at the largest budget."""

    arm: str
    gap: Estimate
    """Accuracy on the arm's own training images minus that on the test images."""
    ece: Estimate
    """Calibration error over the test images of all seeds."""
    corrupted: dict[str, tuple[Estimate, ...]]
    """Accuracy by corruption and strength."""
    corrupted_mean: Estimate
    """Accuracy over all corruptions and strengths."""
    against: dict[str, Versus] | None
    """`gap`, `ece` and `corrupted_mean` against scratch's; null: the arm is scratch."""


@dataclass(frozen=True)
class _Figures:
    """The three figures of one arm, with their resamples."""

    gap: Resampled
    ece: Resampled
    corrupted_mean: Resampled

    @classmethod
    def of(cls, results: Sequence[CellResult], resampler: Resampler | None) -> "_Figures":
        """Compute an arm's figures from its results at the largest budget, one a seed."""
        right = np.stack([result.right for result in results])
        train = np.array([result.train_accuracy or 0.0 for result in results])
        confidence = np.stack(
            [softmax(result.logits.astype(float), axis=1).max(axis=1) for result in results]
        )
        corrupted = np.stack(
            [np.concatenate(list(result.corrupted.values())).mean(axis=0) for result in results]
        )
        return cls(
            gap=Resampled.mean(train, resampler) - Resampled.mean(right, resampler),
            ece=_calibration(confidence, right, resampler),
            corrupted_mean=Resampled.mean(corrupted, resampler),
        )

    def against(self, scratch: "_Figures") -> dict[str, Versus]:
        """Return how each figure differs from scratch's."""
        return {
            "gap": versus(self.gap, scratch.gap, less=True),
            "ece": versus(self.ece, scratch.ece, less=True),
            "corrupted_mean": versus(self.corrupted_mean, scratch.corrupted_mean),
        }


def generalisation(
    results: Mapping[str, Sequence[CellResult]], resampler: Resampler | None
) -> list[Generalisation]:
    """Return how each arm does on other images, from its results at the largest budget."""
    figures = {arm: _Figures.of(by_seed, resampler) for arm, by_seed in results.items()}
    return [
        Generalisation(
            arm=arm,
            gap=figures[arm].gap.estimate,
            ece=figures[arm].ece.estimate,
            corrupted=_by_strength(by_seed, resampler),
            corrupted_mean=figures[arm].corrupted_mean.estimate,
            against=None if arm == "scratch" else figures[arm].against(figures["scratch"]),
        )
        for arm, by_seed in results.items()
    ]


def _by_strength(
    results: Sequence[CellResult], resampler: Resampler | None
) -> dict[str, tuple[Estimate, ...]]:
    """Return an arm's accuracy by corruption and strength."""
    right = {
        name: np.stack([result.corrupted[name] for result in results], axis=1)
        for name in results[0].corrupted
    }  # (strengths, seeds, images)
    return {
        name: tuple(Resampled.mean(values, resampler).estimate for values in strengths)
        for name, strengths in right.items()
    }


def _calibration(
    confidence: NDArray[np.float64], right: NDArray[np.float64], resampler: Resampler | None
) -> Resampled:
    """Return the calibration error of predictions: confidence and right, (seeds, images)."""

    def error(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> float:
        return calibration_error(reliability(confidence.ravel(), right.ravel().astype(bool)))

    draws = None
    if resampler:
        resamples = (
            np.ix_(seeds, images)
            for seeds, images in zip(resampler.seeds, resampler.images, strict=True)
        )
        draws = np.array([error(confidence[resample], right[resample]) for resample in resamples])
    seeds = np.array([error(*seed) for seed in zip(confidence, right, strict=True)])
    return Resampled(error(confidence, right), seeds, draws)
