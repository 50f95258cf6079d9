"""What transfer bought: the arithmetic of the answers, by hand."""

import math

import numpy as np
import pytest

from graft.report.design import ARMS, Budget
from graft.report.gain import (
    RESAMPLES,
    Drawn,
    Estimate,
    Sampler,
    gains,
    matches,
    outcome_of,
    plateau,
)
from graft.report.scores import Interval

SEEDS, IMAGES = 5, 400


def estimate(values: np.ndarray, sampler: Sampler | None) -> Estimate:
    return Drawn.mean(values, sampler).estimate


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
    sampler = Sampler.of(SEEDS, IMAGES)
    table = {
        Budget(arm, 1.0): Drawn.mean(right(0.7, seed), sampler) for seed, arm in enumerate(ARMS)
    }
    table[Budget("features", 1.0)] = Drawn.mean(right(accuracy, 9), sampler)
    found = gains(table, [1.0])
    assert {gain.arm: gain.outcome for gain in found}["features"] == outcome
    assert {gain.arm: gain.outcome for gain in found}["full"] == "not shown"


def test_the_same_predictions_differ_by_nothing() -> None:
    same = Drawn.mean(right(0.7), Sampler.of(SEEDS, IMAGES))
    for gain in gains({Budget(arm, 0.5): same for arm in ARMS}, [0.5]):
        assert gain.difference.value == 0
        assert gain.outcome == "not shown"


def test_draws_are_the_same_every_time() -> None:
    one, other = Sampler.of(SEEDS, IMAGES), Sampler.of(SEEDS, IMAGES)
    assert one is not None
    assert other is not None
    assert one.seeds.shape == (RESAMPLES, SEEDS)
    assert np.array_equal(one.images, other.images)


LABELS, SIZES = [0.1, 0.25, 1.0], {0.1: 10, 0.25: 25, 1.0: 100}


def by_budget(scratch: list[float], arm: list[float], draws: int = 0) -> dict[Budget, Drawn]:
    """Every arm but scratch has the same accuracies; draws of them lie within a hundredth."""

    def drawn(value: float) -> Drawn:
        spread = np.linspace(-0.01, 0.01, draws) if draws else None
        return Drawn(value, np.full(SEEDS, value), None if spread is None else value + spread)

    ours = {Budget(name, x): drawn(y) for name in ARMS for x, y in zip(LABELS, arm, strict=True)}
    return ours | {Budget("scratch", x): drawn(y) for x, y in zip(LABELS, scratch, strict=True)}


def test_labels_that_scratch_would_need() -> None:
    accuracy = by_budget([0.5, 0.6, 0.8], [0.7, 0.9, 0.5])
    found = {one.images: one for one in matches(accuracy, LABELS, SIZES) if one.arm == "full"}
    # Half-way from 0.6 to 0.8, on a logarithmic axis from 25 to 100.
    assert found[10].scratch_images == pytest.approx(50)
    assert found[100].scratch_images == 10
    assert (found[25].scratch_images, found[25].at_least) == (None, 100)
    assert {(one.interval, one.outcome) for one in found.values()} == {(None, "not shown")}


def test_fewer_labels_are_shown_where_the_interval_leaves_the_arms_own_number() -> None:
    accuracy = by_budget([0.5, 0.6, 0.8], [0.7, 0.9, 0.5], draws=RESAMPLES)
    # Draws of the two move together: where scratch needs 50, it needs 50 in every draw.
    found = {one.images: one for one in matches(accuracy, LABELS, SIZES) if one.arm == "full"}
    half = found[10].interval
    assert half is not None
    assert (half.low, half.high) == (pytest.approx(50), pytest.approx(50))
    assert found[10].outcome == "better"
    never = found[25].interval
    assert never is not None
    assert (never.low, never.high, found[25].outcome) == (None, None, "better")
    assert found[100].outcome == "worse"  # scratch gets there from 10


def test_when_an_arm_is_as_good_as_scratch_ever_is() -> None:
    curves = [[0.5, 0.7, 0.9], [0.6, 0.8, 0.8], [0.1, 0.2, 0.3]]
    scratch = [[0.1, 0.2, 0.7], [0.1, 0.6, 0.5], [0.9, 0.1, 0.1]]
    found = plateau("features", curves, scratch, images=40, epoch_s=2, cold_s=5, sampler=None)
    assert (found.reached, found.epochs) == (2, 2)  # after 2, 1, and never
    assert (found.images, found.seconds, found.cold_seconds) == (80, 4, 9)
    assert (found.interval, found.outcome) == (None, "not shown")
    perfect = [[1.0]] * 3
    never = plateau("features", curves, perfect, images=40, epoch_s=2, cold_s=5, sampler=None)
    assert (never.reached, never.epochs, never.seconds, never.cold_seconds) == (0, None, None, None)


@pytest.mark.parametrize(
    ("curve", "outcome"),
    [([0.8, 0.9], "better"), ([0.1, 0.2, 0.3, 0.9], "worse"), ([0.1], "worse")],
)
def test_sooner_is_shown_where_every_draw_of_seeds_says_so(
    curve: list[float], outcome: str
) -> None:
    scratch = [[0.2, 0.4, 0.8]] * SEEDS
    sampler = Sampler.of(SEEDS, IMAGES)
    found = plateau("full", [curve] * SEEDS, scratch, 40, 2, 0, sampler)
    assert found.outcome == outcome
    mixed = [curve] * 3 + [[0.1, 0.1, 0.8]] * 2
    assert plateau("full", mixed, scratch, 40, 2, 0, sampler).outcome == "not shown"
