"""Intervals over seeds and images cover what they claim; what they are in the limits."""

import numpy as np
import pytest
from scipy.stats import norm, t

from graft.report.two_way import DIFFERENCE, SHARE, half_width, holm, two_way
from report.simulate_coverage import SETTINGS, Setting, simulate, simulate_accuracy


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 12])
def test_it_is_students_of_seeds_alone_and_the_normal_one_of_images_alone(
    seeds: int, level: float
) -> None:
    out = (1 + level) / 2
    assert half_width(4.0, 0.0, seeds, level) == pytest.approx(2 * t.ppf(out, seeds - 1), rel=0.01)
    assert half_width(0.0, 4.0, seeds, level) == pytest.approx(2 * norm.ppf(out), rel=0.01)


def test_the_parts_are_those_of_the_mean_squares() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(4, 1)) + random.normal(size=30) + random.normal(size=(4, 30))
    mean = two_way(values, ())
    seeds, images = values.mean(1), values.mean(0)
    rest = values - seeds[:, None] - images + values.mean()
    of_rest = (rest**2).sum() / (3 * 29)
    assert mean.mean == pytest.approx(values.mean())
    assert mean.seed_part == pytest.approx(seeds.var(ddof=1) / 4)
    assert mean.image_part == pytest.approx((images.var(ddof=1) - of_rest / 4) / 30)


def test_gains_and_losses_that_cancel_in_every_seed_leave_one_too() -> None:
    values = np.zeros((3, 50))
    for seed in range(3):
        values[seed, [2 * seed, 2 * seed + 1]] = 1, -1
    assert two_way(values, DIFFERENCE).half_width() > 0.02


@pytest.mark.parametrize("pseudo", [SHARE, DIFFERENCE])
def test_images_that_agree_leave_an_interval_of_some_width(pseudo: tuple[float, ...]) -> None:
    mean = two_way(np.zeros((3, 50)), pseudo)
    assert mean.half_width() > 0.02
    assert mean.p_value() == pytest.approx(1 if pseudo is DIFFERENCE else 0.15, abs=0.1)


def test_holms_correction() -> None:
    # Holm (1979): 0.01 * 4, then the largest so far of 0.02 * 3, 0.03 * 2, 0.04 * 1.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


HARDEST = [
    Setting(3, 1_000, 0.05, 2),
    Setting(3, 150, 0.01, 1000),
    Setting(5, 10_000, 0.05, 10),
    Setting(10, 50, 0.05, 1000),
]


@pytest.mark.parametrize("setting", HARDEST, ids=str)
def test_intervals_cover(setting: Setting) -> None:
    _, now = simulate(setting, 1_500, with_before=False)
    assert now.holds > 0.95 - 3 * (0.05 * 0.95 / 1_500) ** 0.5  # three standard errors of a share
    assert now.width < 2


HARDEST_SHARES = [Setting(3, 1_000, 0.05, 2), Setting(5, 50, 0.05, 2), Setting(10, 10_000, 0.05, 2)]


@pytest.mark.parametrize("setting", HARDEST_SHARES, ids=str)
def test_intervals_of_accuracies_cover_near_one(setting: Setting) -> None:
    before, now = simulate_accuracy(setting, 0, 800)
    assert now.holds > 0.94 - 3 * (0.06 * 0.94 / 800) ** 0.5
    assert before.holds < now.holds or setting.images == 50


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arm", [0, 1])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_interval_of_an_accuracy_covers(setting: Setting, arm: int) -> None:
    _, now = simulate_accuracy(setting, arm, 10_000)
    assert now.holds > 0.935


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_interval_covers(setting: Setting) -> None:
    _, now = simulate(setting, 10_000, with_before=False)
    assert now.holds > 0.94
    assert now.width < 2.1
