"""The figures of a transfer report: their arithmetic, by hand."""

import math

import numpy as np
import pytest

from graft.report.interval import Interval
from graft.report.transfer.bootstrap import (
    RESAMPLES,
    Estimate,
    Resampled,
    Resampler,
    TrainingCost,
    gains,
    matches,
    outcome_of,
    plateau,
)
from graft.report.transfer.design import ARMS, Condition

SEEDS, IMAGES = 5, 400


def estimate(values: np.ndarray, resampler: Resampler | None) -> Estimate:
    return Resampled.mean(values, resampler).estimate


def right(accuracy: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((SEEDS, IMAGES)) < accuracy).astype(float)


def test_an_interval_covers_the_spread_of_seeds_and_images() -> None:
    values = right(0.8)
    accuracy = estimate(values, Resampler.of(SEEDS, IMAGES))
    assert accuracy.value == values.mean()
    assert accuracy.interval is not None
    assert accuracy.interval.low < accuracy.value < accuracy.interval.high
    # Seeds and images vary independently here: the standard error of either alone is a lower
    # bound of half the interval's width over 1.96, both together an upper one.
    width = (accuracy.interval.high - accuracy.interval.low) / 2 / 1.96
    images = values.mean(0).std() / math.sqrt(IMAGES)
    seeds = values.mean(1).std() / math.sqrt(SEEDS)
    assert max(images, seeds) * 0.9 < width < (images + seeds) * 1.3


def test_few_seeds_claim_no_interval() -> None:
    assert Resampler.of(4, IMAGES) is None
    accuracy = estimate(right(0.8)[:4], None)
    assert accuracy.interval is None
    assert len(accuracy.seeds) == 4
    assert outcome_of(accuracy) == "not shown"


def test_of_errors_less_is_better() -> None:
    lower = Estimate(value=-0.1, interval=Interval(low=-0.2, high=-0.1), seeds=())
    assert outcome_of(lower) == "worse"
    assert outcome_of(lower, less=True) == "better"


@pytest.mark.parametrize(
    ("accuracy", "outcome"), [(0.9, "better"), (0.7, "not shown"), (0.5, "worse")]
)
def test_a_difference_is_shown_where_its_interval_does_not_hold_zero(
    accuracy: float, outcome: str
) -> None:
    resampler = Resampler.of(SEEDS, IMAGES)
    table = {
        Condition(arm, 1.0): Resampled.mean(right(0.7, seed), resampler)
        for seed, arm in enumerate(ARMS)
    }
    table[Condition("features", 1.0)] = Resampled.mean(right(accuracy, 9), resampler)
    outcomes = {gain.arm: gain.outcome for gain in gains(table, [1.0])}
    assert (outcomes["features"], outcomes["full"]) == (outcome, "not shown")


def test_the_same_predictions_differ_by_nothing() -> None:
    same = Resampled.mean(right(0.7), Resampler.of(SEEDS, IMAGES))
    for gain in gains({Condition(arm, 0.5): same for arm in ARMS}, [0.5]):
        assert gain.difference.value == 0
        assert gain.outcome == "not shown"


def test_resamples_are_the_same_every_time() -> None:
    first, second = Resampler.of(SEEDS, IMAGES), Resampler.of(SEEDS, IMAGES)
    assert first is not None
    assert second is not None
    assert first.seeds.shape == (RESAMPLES, SEEDS)
    assert np.array_equal(first.images, second.images)


LABELS, SIZES = [0.1, 0.25, 1.0], {0.1: 10, 0.25: 25, 1.0: 100}


def by_condition(
    scratch: list[float], arm: list[float], draws: int = 0
) -> dict[Condition, Resampled]:
    """Every arm but scratch has the same accuracies; draws of them lie within a hundredth."""

    def drawn(value: float) -> Resampled:
        spread = np.linspace(-0.01, 0.01, draws) if draws else None
        return Resampled(value, np.full(SEEDS, value), None if spread is None else value + spread)

    ours = {Condition(name, x): drawn(y) for name in ARMS for x, y in zip(LABELS, arm, strict=True)}
    return ours | {Condition("scratch", x): drawn(y) for x, y in zip(LABELS, scratch, strict=True)}


def test_labels_that_scratch_would_need() -> None:
    accuracy = by_condition([0.5, 0.6, 0.8], [0.7, 0.9, 0.5])
    of_full = {m.images: m for m in matches(accuracy, LABELS, SIZES) if m.arm == "full"}
    # Half-way from 0.6 to 0.8, on a logarithmic axis from 25 to 100.
    assert of_full[10].scratch_images == pytest.approx(50)
    assert of_full[100].scratch_images == 10
    assert (of_full[25].scratch_images, of_full[25].at_least) == (None, 100)
    assert {(match.interval, match.outcome) for match in of_full.values()} == {(None, "not shown")}


def test_fewer_labels_are_shown_where_the_interval_leaves_the_number_of_the_arm() -> None:
    accuracy = by_condition([0.5, 0.6, 0.8], [0.7, 0.9, 0.5], draws=RESAMPLES)
    # Draws of the two move together: where scratch needs 50, it needs 50 in every draw.
    of_full = {m.images: m for m in matches(accuracy, LABELS, SIZES) if m.arm == "full"}
    half = of_full[10].interval
    assert half is not None
    assert (half.low, half.high) == (pytest.approx(50), pytest.approx(50))
    assert of_full[10].outcome == "better"
    never = of_full[25].interval
    assert never is not None
    assert (never.low, never.high, of_full[25].outcome) == (None, None, "better")
    assert of_full[100].outcome == "worse"  # scratch gets there from 10


def test_when_an_arm_is_as_good_as_scratch_ever_is() -> None:
    curves = [[0.5, 0.7, 0.9], [0.6, 0.8, 0.8], [0.1, 0.2, 0.3]]
    scratch = [[0.1, 0.2, 0.7], [0.1, 0.6, 0.5], [0.9, 0.1, 0.1]]
    cost = TrainingCost(images=40, epoch_s=2, cold_s=5)
    soon = plateau("features", curves, scratch, cost, None)
    assert (soon.reached, soon.epochs) == (2, 2)  # after 2, 1, and never
    assert (soon.images, soon.seconds, soon.cold_seconds) == (80, 4, 9)
    assert (soon.interval, soon.outcome) == (None, "not shown")
    never = plateau("features", curves, [[1.0]] * 3, cost, None)
    assert (never.reached, never.epochs, never.seconds, never.cold_seconds) == (0, None, None, None)


@pytest.mark.parametrize(
    ("curve", "outcome"),
    [([0.8, 0.9], "better"), ([0.1, 0.2, 0.3, 0.9], "worse"), ([0.1], "worse")],
)
def test_sooner_is_shown_where_every_draw_of_seeds_says_so(
    curve: list[float], outcome: str
) -> None:
    scratch = [[0.2, 0.4, 0.8]] * SEEDS
    resampler = Resampler.of(SEEDS, IMAGES)
    cost = TrainingCost(images=40, epoch_s=2, cold_s=0)
    assert plateau("full", [curve] * SEEDS, scratch, cost, resampler).outcome == outcome
    mixed = [curve] * 3 + [[0.1, 0.1, 0.8]] * 2
    assert plateau("full", mixed, scratch, cost, resampler).outcome == "not shown"
