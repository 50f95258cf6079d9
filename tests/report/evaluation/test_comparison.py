"""Comparisons of two models, against McNemar's chi-squared test and by hand."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from graft.report.evaluation.comparison import compare, difference_interval
from graft.report.evaluation.compute_scores import compute_scores
from graft.report.evaluation.predictions import Predictions, from_parquet, to_parquet
from report.evaluation.made_up import predictions


def with_copies(made: Predictions, times: int) -> Predictions:
    return replace(
        made,
        images=made.images * times,
        paths=made.paths * times,
        labels=np.tile(made.labels, times),
        logits=np.tile(made.logits, (times, 1)),
    )


def test_copies_change_no_interval_and_no_verdict():
    first, second = predictions(40, seed=1, skill=1), predictions(40, seed=2, model="m@2")
    # As a release stored them that took copies for images of their own.
    stored = [from_parquet(to_parquet(with_copies(made, 16))) for made in (first, second)]
    comparison = compare(first, second)
    assert compare(*stored) == comparison.model_copy(update={"copies": 600})
    scores = compute_scores(first)
    assert compute_scores(stored[0]) == scores.model_copy(update={"copies": 600})


def test_mcnemars_numbers() -> None:
    first, second = predictions(seed=1, skill=1.0), predictions(seed=2, skill=2.0, model="m@2")
    comparison = compare(first, second)
    a, b = first.right, second.right
    assert (comparison.both_right, comparison.both_wrong) == ((a & b).sum(), (~a & ~b).sum())
    only1, only2 = comparison.only_first, comparison.only_second
    assert (only1, only2) == ((a & ~b).sum(), (~a & b).sum())
    # With many images on which they differ, the exact test is near McNemar's chi-squared one
    # with its correction for continuity.
    statistic = (abs(only1 - only2) - 1) ** 2 / (only1 + only2)
    assert comparison.p_value == pytest.approx(chi2.sf(statistic, 1), rel=0.2)
    assert comparison.outcome == "better"
    assert compare(second, first).outcome == "worse"
    low, high = comparison.difference_interval.low, comparison.difference_interval.high
    assert low < comparison.difference < high
    assert comparison.difference == pytest.approx(b.mean() - a.mean())
    spread = np.std(b.astype(float) - a) / np.sqrt(len(a))  # of the normal approximation
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.05)
    assert len(comparison.changed) == only1 + only2


def test_an_exact_small_case() -> None:
    # Of 9 images the second model alone gets 5 and the first alone 1:
    # 2 * (C(6,0) + C(6,1)) / 2^6.
    first, second = (_right(flags) for flags in ("101000000", "011111100"))
    comparison = compare(first, second)
    assert (comparison.only_first, comparison.only_second) == (1, 5)
    assert comparison.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert comparison.outcome == "not shown"


def _right(flags: str) -> Predictions:
    made = predictions(len(flags), classes=2)
    predicted: NDArray[np.int64] = np.where([f == "1" for f in flags], made.labels, 1 - made.labels)
    made.logits[:] = np.eye(2, dtype=np.float32)[predicted]
    return made


def test_the_same_predictions_show_nothing() -> None:
    comparison = compare(predictions(), predictions(model="m@2"))
    assert (comparison.p_value, comparison.outcome, comparison.changed) == (1.0, "not shown", ())
    low, high = comparison.difference_interval.low, comparison.difference_interval.high
    assert low < 0 < high  # so few images could hide a difference


@pytest.mark.parametrize(("images", "first", "second"), [(40, 0.02, 0.04), (200, 0.0, 0.03)])
def test_an_interval_holds_the_difference(images: int, first: float, second: float) -> None:
    """`first`, `second`: how often each model alone is right."""
    random = np.random.default_rng(0)
    held = 0
    for counts in random.multinomial(images, [first, 1 - first - second, second], 1_000):
        interval = difference_interval(np.repeat([-1.0, 0.0, 1.0], counts))
        held += interval.low <= second - first <= interval.high
    assert held >= 940
