"""The figures of a transfer report: their arithmetic, by hand."""

import json

import numpy as np
import pytest

from graft.report.transfer.design import ARMS, Condition
from graft.report.transfer.estimates import (
    Crossed,
    Gain,
    Plateau,
    TrainingCost,
    gains,
    matches,
    outcome_of,
    plateaus,
)
from graft.report.two_way import LEAST_SEEDS

SEEDS, IMAGES = 5, 400


def right(accuracy: float, seed: int = 0) -> Crossed:
    drawn = np.random.default_rng(seed).random((SEEDS, IMAGES)) < accuracy
    return Crossed(drawn.astype(float))


def test_few_seeds_claim_no_interval() -> None:
    accuracy = Crossed(right(0.8).values[: LEAST_SEEDS - 1]).estimate
    assert accuracy.interval is None
    assert len(accuracy.seeds) == LEAST_SEEDS - 1
    few = {Condition(arm, 1.0): Crossed(right(0.8).values[:2]) for arm in ARMS}
    assert {(gain.p_value, gain.outcome) for gain in gains(few, [1.0])} == {(None, "not shown")}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_an_interval_holds_its_value_and_stays_among_shares(share: float) -> None:
    values = np.zeros((SEEDS, 50))
    values[:, : round(share * 50)] = 1
    accuracy = Crossed(values).estimate
    assert accuracy.interval is not None
    assert 0 <= accuracy.interval.low <= accuracy.value <= accuracy.interval.high <= 1
    assert accuracy.interval.high - accuracy.interval.low > 0.02  # 50 images show no more


def test_of_errors_less_is_better() -> None:
    assert outcome_of(0.01, -0.1) == "worse"
    assert outcome_of(0.01, -0.1, less=True) == "better"
    assert outcome_of(0.06, -0.1) == "not shown"


@pytest.mark.parametrize(
    ("accuracy", "outcome"), [(0.9, "better"), (0.7, "not shown"), (0.5, "worse")]
)
def test_a_difference_is_shown_where_its_corrected_p_value_is_small(
    accuracy: float, outcome: str
) -> None:
    table = {Condition(arm, 1.0): right(0.7, seed) for seed, arm in enumerate(ARMS)}
    table[Condition("features", 1.0)] = right(accuracy, 9)
    outcomes = {gain.arm: gain.outcome for gain in gains(table, [1.0])}
    assert (outcomes["features"], outcomes["full"]) == (outcome, "not shown")


def test_gains_are_corrected_for_their_number() -> None:
    """One of twelve whose own interval leaves 0 out by a little is not shown."""
    budgets = [0.1, 0.25, 0.5, 1.0]
    table = {Condition(arm, budget): right(0.7) for arm in ARMS for budget in budgets}
    table[Condition("full", 1.0)] = right(0.77, 3)
    alone = {c: values for c, values in table.items() if c.labels == 1.0}
    alone |= {Condition(arm, 1.0): right(0.7) for arm in ("features", "partial")}
    (of_twelve,) = [g for g in gains(table, budgets) if (g.arm, g.labels) == ("full", 1.0)]
    (of_three,) = [g for g in gains(alone, [1.0]) if g.arm == "full"]
    assert of_twelve.difference == of_three.difference
    assert of_twelve.p_value == pytest.approx(4 * (of_three.p_value or 0))


@pytest.mark.parametrize(("labels", "words"), [(1, "1 a class"), (1.0, "100 %")])
def test_one_label_a_class_is_not_all_labels(labels: float, words: str) -> None:
    (gain, *_) = gains({Condition(arm, labels): right(0.7) for arm in ARMS}, [labels])
    stored = Gain.model_validate(json.loads(gain.model_dump_json()))
    assert stored == gain
    assert str(stored).startswith(f"features at {words} of the labels, ")


def test_the_same_predictions_differ_by_nothing() -> None:
    for gain in gains({Condition(arm, 0.5): right(0.7) for arm in ARMS}, [0.5]):
        assert gain.difference.value == 0
        assert gain.outcome == "not shown"


LABELS, SIZES = [0.1, 0.25, 1.0], {0.1: 10, 0.25: 25, 1.0: 100}


def by_condition(
    scratch: list[float], arm: list[float], seeds: int = SEEDS
) -> dict[Condition, Crossed]:
    """Every arm but scratch has the same accuracies; of the images, the same come first."""

    def images(value: float) -> Crossed:
        return Crossed(np.tile(np.arange(1_000) < 1_000 * value, (seeds, 1)).astype(float))

    return {
        Condition(name, budget): images(accuracy)
        for name in ARMS
        for budget, accuracy in zip(LABELS, scratch if name == "scratch" else arm, strict=True)
    }


def test_labels_that_scratch_would_need() -> None:
    accuracy = by_condition([0.5, 0.6, 0.8], [0.7, 0.9, 0.5], seeds=2)
    matched = matches(accuracy, gains(accuracy, LABELS), SIZES)
    of_full = {m.images: m for m in matched if m.arm == "full"}
    # Half-way from 0.6 to 0.8, on a logarithmic axis from 25 to 100.
    assert of_full[10].scratch_images == pytest.approx(50)
    assert of_full[100].scratch_images == 10
    assert (of_full[25].scratch_images, of_full[25].at_least) == (None, 100)
    assert {(match.interval, match.outcome) for match in of_full.values()} == {(None, "not shown")}


def test_fewer_labels_are_shown_where_the_arm_gains_and_the_interval_holds_the_number() -> None:
    accuracy = by_condition([0.5, 0.6, 0.8], [0.7, 0.9, 0.5])
    matched = matches(accuracy, gains(accuracy, LABELS), SIZES)
    of_full = {m.images: m for m in matched if m.arm == "full"}
    half = of_full[10].interval
    assert half is not None
    assert 25 < (half.low or 0) < 50 < (half.high or 0) < 100
    assert of_full[10].outcome == "better"
    never = of_full[25].interval
    assert never is not None
    assert (never.low, never.high, of_full[25].outcome) == (None, None, "better")
    assert of_full[100].outcome == "worse"  # scratch gets there from 10


def sooner(curves: list[list[float]], scratch: list[list[float]], cost: TrainingCost) -> Plateau:
    costs = {"full": cost, "scratch": cost}
    (full,) = [p for p in plateaus({"full": curves, "scratch": scratch}, costs) if p.arm == "full"]
    return full


def test_when_an_arm_is_as_good_as_scratch_ever_is() -> None:
    curves = [[0.5, 0.7, 0.9], [0.6, 0.8, 0.8], [0.1, 0.2, 0.3]]
    scratch = [[0.1, 0.2, 0.7], [0.1, 0.6, 0.5], [0.9, 0.1, 0.1]]
    cost = TrainingCost(images=40, epoch_s=2, cold_s=5)
    soon = sooner(curves, scratch, cost)
    assert (soon.reached, soon.epochs) == (2, 2)  # after 2, 1, and never
    assert (soon.images, soon.seconds, soon.cold_seconds) == (80, 4, 9)
    assert (soon.interval, soon.outcome) == (None, "not shown")
    never = sooner(curves, [[1.0]] * 3, cost)
    assert (never.reached, never.epochs, never.seconds, never.cold_seconds) == (0, None, None, None)


@pytest.mark.parametrize(
    ("curve", "outcome"),
    [([0.8, 0.9], "better"), ([0.1, 0.2, 0.3, 0.9], "worse"), ([0.1], "worse")],
)
def test_sooner_is_shown_where_enough_seeds_say_so(curve: list[float], outcome: str) -> None:
    scratch = [0.2, 0.4, 0.8]
    cost = TrainingCost(images=40, epoch_s=2, cold_s=0)
    assert sooner([curve] * 8, [scratch] * 8, cost).outcome == outcome
    assert sooner([curve] * 8, [scratch] * 8, cost).interval is not None
    five = sooner([curve] * 5, [scratch] * 5, cost)
    assert (five.interval, five.outcome) == (None, "not shown")
    mixed = [curve] * 5 + [[0.1, 0.1, 0.8]] * 3
    assert sooner(mixed, [scratch] * 8, cost).outcome == "not shown"
