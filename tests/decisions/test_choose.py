"""Thresholds that are chosen and certified: what they promise holds, drawn after drawn."""

import numpy as np
import pytest

from decisions.populations import drawn, halves, population
from decisions.simulation import (
    COST,
    HARD,
    IMAGES,
    LATER,
    LEVEL,
    TARGETS,
    World,
    simulate,
    simulate_costs,
    simulate_sets,
)
from graft.decisions.calibration import NONE
from graft.decisions.choose import Certified, Labelled, Lacking, _path, choose_thresholds
from graft.decisions.conformal import conformal_sets, least_images_of_sets
from graft.decisions.promises import Promise, Target, certify
from graft.decisions.rules import Thresholds, answer

CLASSES = ("c0", "c1")


@pytest.fixture(scope="module")
def worlds() -> dict[int, World]:
    return {classes: World.of(classes) for classes in HARD}


SLOWER = {"recall", "false accepts", "recall and precision"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOWER)) for name in TARGETS],
)
def test_promises_hold(worlds: dict[int, World], name: str) -> None:
    tally = simulate(worlds[2], TARGETS[name], images=300, draws=30, seed=7)
    assert tally.made
    assert tally.broken <= tally.most


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("classes", HARD)
@pytest.mark.parametrize("name", TARGETS)
def test_promises_hold_in_a_thousand_draws(
    worlds: dict[int, World], name: str, classes: int, images: int
) -> None:
    tally = simulate(worlds[classes], TARGETS[name], images, draws=1000, seed=images)
    assert tally.broken <= tally.most


def test_mean_costs_hold(worlds: dict[int, World]) -> None:
    just_missed = simulate_costs(worlds[2], 0.2, images=300, draws=60, seed=7)
    assert just_missed.broken <= just_missed.most
    easy = simulate_costs(worlds[2], 0.5, images=300, draws=5, seed=7)
    assert (easy.made, easy.broken) == (5, 0)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("classes", HARD)
def test_mean_costs_hold_in_a_thousand_draws(
    worlds: dict[int, World], classes: int, images: int
) -> None:
    tally = simulate_costs(worlds[classes], COST[classes], images, draws=1000, seed=images)
    assert tally.broken <= tally.most


def test_sets_hold_the_class(worlds: dict[int, World]) -> None:
    covered, _ = simulate_sets(worlds[2], images=50, draws=150, seed=3)
    assert np.mean(covered) >= 0.9 - 2 * np.std(covered) / 150**0.5


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("classes", HARD)
def test_sets_hold_the_class_in_a_thousand_draws(
    worlds: dict[int, World], classes: int, images: int
) -> None:
    covered, _ = simulate_sets(worlds[classes], images, draws=1000, seed=images)
    assert np.mean(covered) >= 0.9 - 2 * np.std(covered) / 1000**0.5


def test_too_few_images_for_sets() -> None:
    least = least_images_of_sets(0.9)
    p = np.full((least, 2), 0.5)
    assert conformal_sets(p, np.zeros(least, np.int64), 0.9) is not None
    assert conformal_sets(p[1:], np.zeros(least - 1, np.int64), 0.9) is None


def test_images_that_certify_choose_no_order() -> None:
    """What is tested first depends on the images that choose alone."""
    some = drawn(population(2, 5_000, apart=3), 900, np.random.default_rng(0))
    choosing, certifying = halves(some, 300)
    targets = TARGETS["recall"]
    first = choose_thresholds(choosing, certifying, CLASSES, NONE, targets, LEVEL, LATER)
    assert isinstance(first, Certified)
    # All certifying images again: the same path, so that one of its thresholds is chosen again.
    again = choose_thresholds(
        choosing, certifying + certifying, CLASSES, NONE, targets, LEVEL, LATER
    )
    assert isinstance(again, Certified)
    assert again.rule.by_class[0].threshold >= first.rule.by_class[0].threshold


def test_more_right_answers_are_preferred() -> None:
    some = drawn(population(2, 5_000, apart=3), 3000, np.random.default_rng(0))
    choosing, certifying = halves(some, 1000)
    easy = choose_thresholds(
        choosing, certifying, CLASSES, NONE, [Target(kind="accuracy", value=0.6)], 0.1, 0.1
    )
    hard = choose_thresholds(
        choosing, certifying, CLASSES, NONE, [Target(kind="accuracy", value=0.99)], 0.1, 0.1
    )
    assert isinstance(easy, Certified)
    assert isinstance(hard, Certified)
    assert easy.rule.others < hard.rule.others


def test_what_lacks_says_how_many_images_it_takes() -> None:
    some = drawn(population(2, 5_000, apart=3), 90, np.random.default_rng(0))
    choosing, certifying = halves(some, 30)
    asked = [Target(kind="recall", name="c1", value=0.97)]
    lacking = choose_thresholds(choosing, certifying, CLASSES, NONE, asked, 0.05, 0.02)
    assert isinstance(lacking, list)
    (one,) = lacking
    assert isinstance(one, Lacking)
    assert one.more is not None
    assert one.promise.images + one.more >= 129  # ln 0.02 / ln 0.97: at the level of the next try


def test_what_lacks_is_told_of_the_thresholds_that_were_tested() -> None:
    """The sequence stops at the first: it does not say what bolder ones would have reached."""
    some = drawn(population(2, 5_000, apart=3), 90, np.random.default_rng(0))
    choosing, certifying = halves(some, 30)
    asked = [Target(kind="recall", name="c1", value=0.97)]
    rules = _path(choosing, CLASSES, NONE, asked)

    def said(rule: Thresholds, on: Labelled) -> Promise:
        decided = answer(on.logits, CLASSES, NONE, rule).decided
        return certify(asked[0], decided, on.labels, CLASSES)

    first = min(rules, key=lambda rule: said(rule, choosing).p_value)
    lacking = choose_thresholds(choosing, certifying, CLASSES, NONE, asked, 0.05, 0.02)
    assert isinstance(lacking, list)
    assert lacking[0].promise == said(first, certifying)
    assert lacking[0].promise.p_value > 0.05


def test_a_class_that_none_of_those_that_fit_is_of() -> None:
    """Its threshold would be 0, at which every image is answered with it, and none is missed."""
    some = drawn(population(2, 5_000, apart=3), 600, np.random.default_rng(0))
    choosing, certifying = halves(some, 200)
    others = choosing.labels == 0
    fitting = Labelled(choosing.logits[others], choosing.labels[others])
    asked = [Target(kind="recall", name="c1", value=0.5)]
    lacking = choose_thresholds(fitting, certifying, CLASSES, NONE, asked, 0.05, 0.02)
    assert isinstance(lacking, list)
    assert not lacking[0].fits
    assert lacking[0].promise.images == (certifying.labels == 1).sum()
    assert lacking[0].promise.kept == 0


def test_what_no_threshold_reaches() -> None:
    some = drawn(population(2, 5_000, apart=0), 6000, np.random.default_rng(0))
    choosing, certifying = halves(some, 2000)
    asked = [
        Target(kind="recall", name="c1", value=0.9),
        Target(kind="precision", name="c1", value=0.9),
    ]
    lacking = choose_thresholds(choosing, certifying, CLASSES, NONE, asked, 0.05, 0.02)
    assert isinstance(lacking, list)
    assert any(one.more is None for one in lacking)


def test_a_class_without_images_is_promised_nothing() -> None:
    some = drawn(population(2, 5_000, apart=3), 300, np.random.default_rng(0))
    choosing, certifying = halves(some, 100)
    asked = [Target(kind="recall", name="c2", value=0.9)]
    three = tuple(
        type(part)(np.pad(part.logits, ((0, 0), (0, 1)), constant_values=-9), part.labels)
        for part in (choosing, certifying)
    )
    lacking = choose_thresholds(*three, (*CLASSES, "c2"), NONE, asked, 0.05, 0.02)
    assert isinstance(lacking, list)
    assert lacking[0].promise.images == 0
