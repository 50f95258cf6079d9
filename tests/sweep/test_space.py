"""Grids and draws."""

import math

import pytest

from graft.errors import SpecError
from graft.spec import Choice, IntUniform, LogUniform, Uniform
from graft.sweep.space import (
    changes_text,
    draw,
    grid,
    holds,
    into_range,
    random_trials,
    value_text,
)

FREEZE = Choice(choice=("all", -1, -3))
RATE = LogUniform(log_uniform=(1e-4, 1e-1))
SPACE = {"backbone.freeze": FREEZE, "train.optimizer.lr": RATE}

RECORDED = [
    {"backbone.freeze": -1, "train.optimizer.lr": 0.0001091},
    {"backbone.freeze": -3, "train.optimizer.lr": 0.007519},
    {"backbone.freeze": -1, "train.optimizer.lr": 0.0001362},
    {"backbone.freeze": -3, "train.optimizer.lr": 0.0003018},
]


def test_a_grid_has_every_combination_the_last_key_varying_fastest():
    space = {"backbone.freeze": FREEZE, "train.seed": IntUniform(int_uniform=(0, 1))}
    rows = [tuple(changes.values()) for changes in grid(space)]
    assert rows == [("all", 0), ("all", 1), (-1, 0), (-1, 1), (-3, 0), (-3, 1)]
    assert all(list(changes) == list(space) for changes in grid(space))


def test_the_same_seed_gives_the_same_trials_on_every_machine():
    # These values are what a first release gave: a change here changes everyone"s sweeps.
    assert random_trials(SPACE, 4, seed=0) == RECORDED
    assert random_trials(SPACE, 4, seed=1) != RECORDED


def test_more_trials_keep_the_first_and_another_key_changes_no_draw():
    few, many = random_trials(SPACE, 5, 3), random_trials(SPACE, 50, 3)
    assert many[:5] == few
    wider = random_trials(SPACE | {"train.seed": IntUniform(int_uniform=(0, 9))}, 5, 3)
    assert [{key: changes[key] for key in SPACE} for changes in wider] == few


def test_no_two_trials_are_the_same():
    space = {"backbone.freeze": FREEZE, "train.seed": IntUniform(int_uniform=(0, 9))}
    rows = {tuple(changes.values()) for changes in random_trials(space, 30, 0)}
    assert rows == {tuple(changes.values()) for changes in grid(space)}


def test_bounds_too_close_for_that_are_an_error_and_no_endless_loop(monkeypatch):
    monkeypatch.setattr("graft.sweep.space.TRIES", 100)
    with pytest.raises(SpecError, match=r"found no value .* the space's bounds are too close"):
        random_trials({"augment.flip": Uniform(uniform=(0.5, 0.50001))}, 9, 0)


def test_draws_stay_within_bounds_and_spread_as_they_say():
    rates = [
        changes["train.optimizer.lr"]
        for changes in random_trials({"train.optimizer.lr": RATE}, 400, 0)
    ]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert all(float(f"{rate:.4g}") == rate for rate in rates)
    below = sum(math.log10(rate) < -3 for rate in rates)
    assert 100 < below < 167  # a third
    uniform = Uniform(uniform=(0.0, 0.2))
    assert [draw(uniform, f) for f in (0.0, 0.5, 0.99999999)] == [0.0, 0.1, 0.2]
    assert [draw(IntUniform(int_uniform=(3, 5)), f) for f in (0.0, 0.4, 0.9999)] == [3, 4, 5]
    assert [draw(FREEZE, f) for f in (0.0, 0.4, 0.9999)] == ["all", -1, -3]


def test_a_bound_of_many_digits_is_not_crossed_by_rounding():
    odd = Uniform(uniform=(0.123456, 0.123459))
    assert all(0.123456 <= draw(odd, f / 10) <= 0.123459 for f in range(10))


@pytest.mark.parametrize(
    ("values", "value", "inside"),
    [
        (FREEZE, -1, True),
        (FREEZE, 0, False),
        (RATE, 1e-4, True),
        (RATE, 1, False),
        (RATE, "all", False),
        (RATE, True, False),
        (IntUniform(int_uniform=(0, 3)), 3, True),
    ],
)
def test_whether_a_value_is_in_a_range(values, value, inside):
    assert holds(values, value) == inside


@pytest.mark.parametrize(
    ("values", "mutated", "value"),
    [
        (FREEZE, -1, -1),
        (RATE, 0.12, 0.1),
        (RATE, 0.0123456, 0.01235),
        (IntUniform(int_uniform=(4, 8)), 9.6, 8),
        (IntUniform(int_uniform=(4, 8)), 4.8, 4),
    ],
)
def test_a_mutated_value_stays_within_its_range(values, mutated, value):
    assert into_range(values, mutated) == value


def test_values_are_written_as_a_person_would():
    assert (
        value_text({"kind": "mlp", "hidden": [256, 64], "dropout": 0.5})
        == "mlp hidden=[256, 64] dropout=0.5"
    )
    assert changes_text({"backbone.freeze": "all", "train.optimizer.lr": 0.0001}) == (
        "backbone.freeze all, train.optimizer.lr 0.0001"
    )
    assert [value_text(value) for value in (None, True, 3)] == ["null", "true", "3"]
