"""What transfer bought: the arithmetic of the answers, by hand."""

import math

import numpy as np
import pytest

from graft.report.design import ARMS, Budget
from graft.report.gain import (
    RESAMPLES,
    Sampler,
    estimate,
    gains,
    matches,
    outcome_of,
    plateau,
)

SEEDS, IMAGES = 5, 400


def right(accuracy: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((SEEDS, IMAGES)) < accuracy).astype(float)


def test_an_interval_covers_the_spread_of_seeds_and_images() -> None:
    values = right(0.8)
    found = estimate(values, Sampler.of(SEEDS, IMAGES))
    assert found.value == values.mean()
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high
    # Seeds and images vary independently here: the standard error of either alone is a lower
    # bound of half the interval's width over 1.96, both together an upper one.
    width = (found.interval.high - found.interval.low) / 2 / 1.96
    images = values.mean(0).std() / math.sqrt(IMAGES)
    seeds = values.mean(1).std() / math.sqrt(SEEDS)
    assert max(images, seeds) * 0.9 < width < (images + seeds) * 1.3


def test_few_seeds_claim_no_interval() -> None:
    assert Sampler.of(4, IMAGES) is None
    found = estimate(right(0.8)[:4], None)
    assert found.interval is None
    assert len(found.seeds) == 4
    assert outcome_of(found) == "not shown"


@pytest.mark.parametrize(
    ("accuracy", "outcome"), [(0.9, "better"), (0.7, "not shown"), (0.5, "worse")]
)
def test_a_difference_is_shown_where_its_interval_does_not_hold_zero(
    accuracy: float, outcome: str
) -> None:
    table = {Budget(arm, 1.0): right(0.7, seed) for seed, arm in enumerate(ARMS)}
    table[Budget("features", 1.0)] = right(accuracy, 9)
    found = gains(table, [1.0], Sampler.of(SEEDS, IMAGES))
    assert {gain.arm: gain.outcome for gain in found}["features"] == outcome
    assert {gain.arm: gain.outcome for gain in found}["full"] == "not shown"


def test_the_same_predictions_differ_by_nothing() -> None:
    table = {Budget(arm, 0.5): right(0.7) for arm in ARMS}
    for gain in gains(table, [0.5], Sampler.of(SEEDS, IMAGES)):
        assert gain.difference.value == 0
        assert gain.outcome == "not shown"


def test_draws_are_the_same_every_time() -> None:
    one, other = Sampler.of(SEEDS, IMAGES), Sampler.of(SEEDS, IMAGES)
    assert one is not None
    assert other is not None
    assert one.seeds.shape == (RESAMPLES, SEEDS)
    assert np.array_equal(one.images, other.images)


def test_labels_that_scratch_would_need() -> None:
    labels, images = [0.1, 0.25, 1.0], {0.1: 10, 0.25: 25, 1.0: 100}
    scratch = zip(labels, (0.5, 0.6, 0.8), strict=True)
    accuracies = {Budget("scratch", one): value for one, value in scratch}
    for arm in ARMS[1:]:
        accuracies |= {Budget(arm, one): 0.9 for one in labels}
    accuracies[Budget("features", 0.1)] = 0.7
    accuracies[Budget("full", 0.1)] = 0.5
    found = {(one.arm, one.images): one for one in matches(accuracies, labels, images)}
    # Half-way from 0.6 to 0.8, on a logarithmic axis from 25 to 100.
    assert found["features", 10].scratch_images == pytest.approx(50)
    assert found["full", 10].scratch_images == 10
    never = found["partial", 25]
    assert (never.scratch_images, never.at_least) == (None, 100)


def test_when_an_arm_is_as_good_as_scratch_ever_is() -> None:
    curves = [[0.5, 0.7, 0.9], [0.6, 0.8, 0.8], [0.1, 0.2, 0.3]]
    found = plateau("features", curves, [0.7, 0.6, 0.9], images=40, epoch_s=2, cold_s=5)
    assert (found.reached, found.epochs) == (2, 1.5)
    assert (found.images, found.seconds, found.cold_seconds) == (60, 3, 8)
    never = plateau("features", curves, [1, 1, 1], images=40, epoch_s=2, cold_s=5)
    assert (never.reached, never.epochs, never.seconds, never.cold_seconds) == (0, None, None, None)
