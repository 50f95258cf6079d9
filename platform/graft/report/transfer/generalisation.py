"""What becomes of an arm's accuracy on images unlike those it trained on; pure.

Three figures at the largest label budget: the gap between training and test images, the
calibration error, and the accuracy on corrupted images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graft.report.transfer.cell_result import CellResult
from graft.report.transfer.estimates import Crossed, Estimate, Versus, compare_all
from graft.report.two_way import DIFFERENCE
from graft.spec import Section


class Generalisation(Section):
    """What becomes of an arm's accuracy on images unlike its training's, at the largest budget."""

    arm: str
    gap: Estimate
    """Accuracy on the arm's own training images minus that on the test images."""
    ece: Estimate
    """Calibration error on the test images, the mean of the seeds'. No interval is claimed: none is
    known that covers near 0, where calibrated models lie."""
    corrupted: dict[str, tuple[Estimate, ...]]
    """Accuracy by corruption and strength."""
    corrupted_mean: Estimate
    """Accuracy over all corruptions and strengths."""
    against: dict[str, Versus] | None
    """`gap`, `ece` and `corrupted_mean` against scratch's; null: the arm is scratch. Of `ece`
    nothing is shown; p-values are corrected for the two others of all arms."""


@dataclass(frozen=True)
class _Figures:
    """The three figures of one arm."""

    gap: Crossed
    ece: Estimate
    corrupted_mean: Crossed

    @classmethod
    def of(cls, results: Sequence[CellResult]) -> "_Figures":
        """Compute an arm's figures from its results at the largest budget, one a seed."""
        right = np.stack([result.right for result in results])
        train = np.array([[result.figures.train_accuracy or 0.0] for result in results])
        corrupted = np.stack(
            [np.concatenate(list(result.corrupted.values())).mean(axis=0) for result in results]
        )
        return cls(
            gap=Crossed(train - right, DIFFERENCE),
            ece=_mean([result.figures.ece for result in results]),
            corrupted_mean=Crossed(corrupted),
        )


def generalisation(results: Mapping[str, Sequence[CellResult]]) -> list[Generalisation]:
    """Return how each arm does on other images, from its results at the largest budget."""
    figures = {arm: _Figures.of(by_seed) for arm, by_seed in results.items()}
    against = _against_scratch(figures)
    return [
        Generalisation(
            arm=arm,
            gap=figures[arm].gap.estimate,
            ece=figures[arm].ece,
            corrupted=_by_strength(by_seed),
            corrupted_mean=figures[arm].corrupted_mean.estimate,
            against=against.get(arm),
        )
        for arm, by_seed in results.items()
    ]


def _against_scratch(figures: Mapping[str, _Figures]) -> dict[str, dict[str, Versus]]:
    """Return for every other arm how each figure differs from scratch's."""
    scratch = figures["scratch"]
    others = {arm: by_arm for arm, by_arm in figures.items() if arm != "scratch"}
    gaps = [by_arm.gap - scratch.gap for by_arm in others.values()]
    corrupted = [by_arm.corrupted_mean - scratch.corrupted_mean for by_arm in others.values()]
    less = [True] * len(gaps) + [False] * len(corrupted)
    compared = compare_all([*gaps, *corrupted], less)
    return {
        arm: {
            "gap": compared[place],
            "ece": Versus(difference=_less(by_arm.ece, scratch.ece), outcome="not shown"),
            "corrupted_mean": compared[len(gaps) + place],
        }
        for place, (arm, by_arm) in enumerate(others.items())
    }


def _by_strength(results: Sequence[CellResult]) -> dict[str, tuple[Estimate, ...]]:
    """Return an arm's accuracy by corruption and strength."""
    right = {
        name: np.stack([result.corrupted[name] for result in results], axis=1)
        for name in results[0].corrupted
    }  # (strengths, seeds, images)
    return {
        name: tuple(Crossed(values.astype(np.float64)).estimate for values in strengths)
        for name, strengths in right.items()
    }


def _mean(by_seed: Sequence[float]) -> Estimate:
    """Return the mean of the seeds' figures, without an interval."""
    return Estimate(value=float(np.mean(by_seed)), interval=None, seeds=tuple(by_seed))


def _less(figure: Estimate, other: Estimate) -> Estimate:
    """Return a figure less another one, seed by seed."""
    return _mean([a - b for a, b in zip(figure.seeds, other.seeds, strict=True)])
