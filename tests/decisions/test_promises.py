"""Promises: exact tests, and how many images they take."""

import numpy as np
import pytest
from scipy.stats import binomtest

from decisions.simulation import CONFIDENCE, simulate_looks
from graft.decisions.promises import (
    Target,
    certify,
    certify_cost,
    cost_p_value,
    images_needed,
    least_images,
    level_of_try,
    p_value,
)
from graft.decisions.rules import UNKNOWN

CLASSES = ("ants", "bees")


def target(kind: str, value: float, name: str | None = "ants") -> Target:
    return Target.model_validate({"kind": kind, "name": name, "value": value})


@pytest.mark.parametrize(
    ("asked", "images", "kept"),
    [
        (target("recall", 0.6), 4, 2),
        (target("precision", 0.6), 3, 2),
        (target("false-accepts", 0.2), 3, 2),
        (target("accuracy", 0.6, None), 5, 3),
    ],
)
def test_which_images_a_target_is_about(asked: Target, images: int, kept: int) -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    decided = np.array([0, 0, 1, UNKNOWN, 0, 1, UNKNOWN])
    promise = certify(asked, decided, labels, CLASSES)
    assert (promise.images, promise.kept) == (images, kept)


@pytest.mark.parametrize("kept", [0, 88, 95, 100])
def test_p_values_are_those_of_the_exact_test(kept: int) -> None:
    assert p_value(target("recall", 0.9), 100, kept) == pytest.approx(
        binomtest(kept, 100, 0.9, alternative="greater").pvalue
    )
    assert p_value(target("false-accepts", 0.1), 100, kept) == pytest.approx(
        binomtest(100 - kept, 100, 0.1, alternative="less").pvalue
    )


def test_without_an_image_nothing_is_shown() -> None:
    assert p_value(target("recall", 0.1), 0, 0) == 1
    assert cost_p_value(1.0, 0.0, 0, 2.0) == 1


@pytest.mark.parametrize(("kind", "value"), [("recall", 0.95), ("false-accepts", 0.05)])
def test_the_least_images_certify_where_all_are_kept(kind: str, value: float) -> None:
    asked = target(kind, value)
    least = least_images(asked, 0.05)
    assert least == 59
    assert p_value(asked, least, least) <= 0.05 < p_value(asked, least - 1, least - 1)


def test_as_many_images_as_are_asked_for_certify_most_often() -> None:
    asked, share = target("recall", 0.9), 0.95
    needed = images_needed(asked, share, 0.05)
    assert needed is not None
    draw = np.random.default_rng(0)

    def made(images: int) -> float:
        kept = draw.binomial(images, share, 2000)
        return float(np.mean([p_value(asked, images, int(one)) <= 0.05 for one in kept]))

    assert made(needed) > 0.75
    assert made(needed // 2) < 0.75


def test_all_tries_together_take_no_more_than_the_risk() -> None:
    levels = [level_of_try(0.95, before) for before in range(10_000)]
    assert levels[:3] == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    assert sum(levels) == pytest.approx(0.05, rel=1e-3)
    assert sum(levels) <= 0.05
    tenth = least_images(target("recall", 0.95), levels[9])
    assert tenth <= 2.1 * least_images(target("recall", 0.95), levels[0])


def test_who_adds_images_and_asks_again_is_promised_no_more() -> None:
    """What a target that is just missed is promised, in ten looks at ever more images."""
    draws, risk = 400, 1 - CONFIDENCE
    spent, naive = simulate_looks(target("recall", 0.95), 60, looks=10, draws=draws, seed=0)
    most = risk + 2 * (risk * (1 - risk) / draws) ** 0.5
    assert spent <= most < naive


def test_no_number_of_images_shows_what_is_not_so() -> None:
    assert images_needed(target("recall", 0.9), 0.9, 0.05) is None
    assert images_needed(target("recall", 0.9), 0.91, 0.05) is not None


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_mean_cost_is_seldom_thought_to_be_less_than_it_is(rate: float) -> None:
    draw = np.random.default_rng(0)
    largest, mean = 5.0, 5.0 * rate
    wrong = 0
    for _ in range(500):
        costs = largest * (draw.random(200) < rate)
        wrong += certify_cost(target("cost", mean, None), costs, largest).p_value <= 0.1
    assert wrong <= 50


def test_a_mean_cost_far_below_is_certified() -> None:
    asked = target("cost", 0.5, None)
    promise = certify_cost(asked, np.array([0.0] * 90 + [1.0] * 10), 1.0)
    assert promise.p_value < 1e-6
    assert promise.mean_cost == pytest.approx(0.1)
    assert cost_p_value(2.0, 0.5, 10, 1.0) == 0  # no answer costs as much


def test_targets_in_words() -> None:
    assert str(target("recall", 0.95)) == "recall of ants at least 95 %"
    assert str(target("false-accepts", 0.001)) == "false accepts of ants at most 0.1 %"
    assert str(target("accuracy", 0.9, None)) == "accuracy at least 90 %"
    assert str(target("cost", 0.25, None)) == "mean cost at most 0.25"
