"""Calibration: does it find what is wrong, and leave alone what is right?"""

import numpy as np
import pytest

from decisions.populations import drawn, halves, population
from graft.decisions.calibration import (
    FOLDS,
    NONE,
    Calibration,
    _LeftOut,
    cross_fitted,
    fit_calibration,
    fit_temperature,
    fit_vector,
)
from graft.decisions.choose import Labelled


def fitted(on: Labelled) -> Calibration:
    return fit_calibration(on.logits, on.labels, np.arange(len(on)) % FOLDS)


def loss(calibration: Calibration, on: Labelled) -> float:
    return float(calibration.losses(on.logits, on.labels).mean())


@pytest.fixture(scope="module")
def honest() -> Labelled:
    """Labels drawn by the probabilities that the logits mean."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(20_000, 4)).astype(np.float32) * 2
    p = NONE.apply(logits)
    labels = (p.cumsum(axis=1) > draw.random((len(p), 1))).argmax(axis=1)
    return Labelled(logits, labels)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_a_temperature_undoes_a_factor(honest: Labelled, factor: float) -> None:
    calibration = fit_temperature(honest.logits * np.float32(factor), honest.labels)
    assert calibration.scales[0] == pytest.approx(1 / factor, rel=0.03)


def test_vector_scaling_undoes_what_is_wrong_with_a_class(honest: Labelled) -> None:
    wrong = honest.logits.copy()
    wrong[:, 1] = 2 * wrong[:, 1] + 1
    calibration = fit_vector(wrong, honest.labels)
    assert calibration.scales[1] / calibration.scales[0] == pytest.approx(0.5, rel=0.05)
    # Shifts that are all the same change nothing.
    shift = calibration.shifts[1] - np.mean([calibration.shifts[c] for c in (0, 2, 3)])
    assert shift == pytest.approx(-calibration.scales[1], abs=0.1)


def test_the_gradient_of_vector_scaling_leads_to_a_minimum(honest: Labelled) -> None:
    few = halves(honest, 300)[0]
    best = fit_vector(few.logits, few.labels)
    draw = np.random.default_rng(1)
    for _ in range(20):
        near = best.model_copy(
            update={"scales": tuple(np.array(best.scales) + draw.normal(size=4) * 0.2)}
        )
        assert loss(near, few) > loss(best, few) - 2e-3  # it is held near the temperature's


def test_what_is_right_stays_as_it_is(honest: Labelled) -> None:
    draw = np.random.default_rng(2)
    kept = [fitted(drawn(honest, 300, draw)).method for _ in range(20)]
    assert kept.count("none") >= 16


def test_few_images_that_are_all_right_do_not_make_probabilities_of_one() -> None:
    labels = np.arange(25) % 2
    logits = np.zeros((25, 2), np.float32)
    logits[np.arange(25), labels] = 2  # a probability of 0.88
    assert fit_temperature(logits, labels).apply(logits).max() < 0.98
    assert fitted(Labelled(logits[:12], labels[:12])).method == "none"


@pytest.mark.parametrize("images", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_calibration_is_not_worse_on_other_images(images: int) -> None:
    everything = population(5, 20_000, apart=1)
    before = loss(NONE, everything)
    draw = np.random.default_rng(0)
    after = [loss(fitted(drawn(everything, images, draw)), everything) for _ in range(20)]
    assert max(after) < before  # twice and a half as sure as it may be
    assert np.mean(after) < 0.9 * before


def test_crossed_probabilities_do_not_come_from_their_own_image() -> None:
    some = drawn(population(3, 2_000, apart=2), 200, np.random.default_rng(0))
    folds = np.arange(200) % FOLDS
    logits = some.logits * np.float32(3)  # far too sure, so that there is something to fit
    before = cross_fitted(logits, some.labels, folds)
    labels = some.labels.copy()
    labels[folds == 1] = (labels[folds == 1] + 1) % 3
    after = cross_fitted(logits, labels, folds)
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])
    assert (before[folds == 0] != after[folds == 0]).any()


def test_likelier_labels_do_not_make_up_for_a_larger_error() -> None:
    def left_out(loss: float, error: float) -> _LeftOut:
        return _LeftOut(fit_vector, 5, np.full(100, loss), error)

    before = _LeftOut(fit_temperature, 1, np.ones(100), 0.05)
    assert left_out(0.5, 0.05).is_better_than(before)
    assert not left_out(0.5, 0.051).is_better_than(before)
    assert not left_out(0.99, 0.01).is_better_than(before)  # four parameters gain more by chance


def test_images_of_one_fold_show_nothing() -> None:
    some = drawn(population(3, 2_000, apart=2), 300, np.random.default_rng(0))
    assert fitted(some).method != "none"
    assert fit_calibration(some.logits, some.labels, np.zeros(300, np.int64)) == NONE
