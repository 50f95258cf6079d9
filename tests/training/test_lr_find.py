"""The learning-rate range test: curves whose answer is known, and steps that really train."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from colours import colour_spec
from graft.errors import WeightsError
from graft.spec import dump_job, load_job
from graft.training.attempt import training_data
from graft.training.loop import StepDone, finetune
from graft.training.lr_find import RateRange, make_curve, range_losses, settings
from graft.training.prepare_run import assemble, resolve

WIDE = RateRange(1e-6, 1.0, 121)
DECADES = np.linspace(-6, 0, WIDE.steps)
KNEES = [-6, -4, -2, -1, 0]
RESNET = {"backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": 0}}
"""BatchNorm, whose statistics hang on how many images pass at once."""


def fall(depth=1.5):
    """Flat at 2, falling from 1e-4 to 1e-2, flat to 1e-1, then rising."""
    return np.interp(DECADES, KNEES, [2, 2, 2 - depth, 2 - depth, 6])


def noise(size, seed=0, steps=WIDE.steps):
    return np.random.default_rng(seed).normal(0, size, steps)


def test_rates_grow_in_equal_ratios():
    assert RateRange(1e-3, 10.0, 5).rates() == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])


def test_the_suggested_rate_is_where_three_quarters_of_the_fall_are_done():
    curve = make_curve(fall().tolist(), WIDE)
    assert curve.suggested == pytest.approx(10**-2.5, rel=0.15)
    assert curve.rates == WIDE.rates()
    assert curve.losses == fall().tolist()


def test_smoothing_moves_no_straight_line():
    rising = DECADES + 10
    smoothed = np.array(make_curve(rising.tolist(), WIDE).smoothed)
    assert smoothed[20:-20] == pytest.approx(rising[20:-20])


@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_holds_in_noise_that_grows_with_the_rate(seed):
    losses = fall() + noise(0.1, seed) * np.linspace(1, 4, WIDE.steps)
    suggested = make_curve(losses.tolist(), WIDE).suggested
    assert 10**-3 < suggested < 10**-2


def test_a_loss_that_ran_away_does_not_hide_the_fall_before_it():
    calm, wild = fall(), fall()[:100]
    wild[-2:] = 1e4, 1e9
    curve = make_curve(wild.tolist(), WIDE)
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) == 100
    assert curve.losses[-1] == 1e9
    assert curve.suggested == make_curve(calm.tolist(), WIDE).suggested


@pytest.mark.parametrize(
    "losses",
    [
        np.full(WIDE.steps, 0.7),
        2 + DECADES / 10,
        np.interp(DECADES, [-6, -1, 0], [0.7, 0.7, 9]),
        0.7 + noise(0.1),
        fall(0.05) + noise(0.1),
        np.array([0.7]),
        np.array([0.7, 1e5]),
        np.array([9.0, 1.0]),
    ],
    ids=["flat", "rising", "diverging", "noise", "in noise", "one", "two", "at once"],
)
def test_without_a_clear_fall_nothing_is_suggested(losses):
    curve = make_curve(losses.tolist(), WIDE)
    assert curve.suggested is None
    assert np.isfinite(curve.smoothed).all()


@pytest.mark.parametrize("steps", [10, 30, 100, 300])
def test_noise_is_seldom_taken_for_a_fall(steps):
    tested = RateRange(1e-6, 1.0, steps)
    curves = [make_curve((0.7 + noise(0.1, seed, steps)).tolist(), tested) for seed in range(200)]
    assert sum(curve.suggested is not None for curve in curves) <= 10


@pytest.fixture
def losses_of(colour_store):
    """Return a function that runs a range test, or its first steps, on a spec with changes."""

    def losses(tested, steps=None, **changes):
        spec = resolve(colour_store, colour_spec(**changes))
        return list(islice(range_losses(colour_store, spec, tested), steps))

    return losses


def test_the_steps_are_those_of_ordinary_training(colour_store, alone, losses_of):
    # 39 images make 3 batches of 13: two epochs, dropout and all.
    same_rate = RateRange(0.005, 0.005 * (1 + 1e-12), 6)
    losses = losses_of(same_rate, train__batch_size=13)

    spec = resolve(colour_store, colour_spec(train__batch_size=13, train__epochs=2))
    prepared = assemble(colour_store, spec)
    data = training_data(prepared, spec)
    expected, before = [], 0.0
    for event in finetune(prepared.model, data, spec.train, prepared.plan, alone, None):
        if isinstance(event, StepDone):
            summed = float(event.tally.sums[2])
            expected.append((summed - before) / event.images)
            before = summed if event.step < event.steps else 0.0
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_test_learns_and_the_next_one_finds_the_same(losses_of):
    tested = RateRange(1e-6, 0.01, 40)
    losses = losses_of(tested)
    assert len(losses) == 40
    assert np.isfinite(losses).all()
    assert losses_of(tested, steps=10) == losses[:10]
    assert 1e-4 < make_curve(losses, tested).suggested < 1e-2


def test_one_worker_takes_the_passes_of_all(losses_of):
    tested = RateRange(1e-3, 1e-2, 3)
    two = losses_of(tested, scaling={"workers": 2}, **RESNET)
    assert two == losses_of(tested, train__accumulate=2, **RESNET)
    alone = losses_of(tested, **RESNET)
    assert alone != two
    # A CPU can test what is meant for GPUs: the statistics of the whole batch, compiled.
    gpus = {"scaling": {"workers": 2, "gpus_per_worker": 1}, "train__compile": True}
    assert losses_of(tested, train__batch_norm="sync", **gpus, **RESNET) == alone


def test_a_test_ends_where_the_loss_runs_away(losses_of):
    losses = losses_of(RateRange(1e-3, 1e9, 60))
    assert 3 < len(losses) < 60
    assert np.isfinite(losses).all()


def test_weights_that_are_not_finite(colour_store, losses_of, tmp_path):
    state = assemble(colour_store, resolve(colour_store, colour_spec())).model.network.state_dict()
    broken = {name: torch.full_like(value, math.nan) for name, value in state.items()}
    save_file({k: v.contiguous() for k, v in broken.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"not finite, in features\.0\.weight, .* and \d+ more"):
        losses_of(RateRange(1e-6, 1.0, 10), backbone__weights=str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"kind": "uniform"}, {"kind": "uniform"}),
        ({"kind": "decay", "factor": 0.5}, {"kind": "decay", "factor": 0.5, "backbone": None}),
        (
            {"kind": "decay", "factor": 0.5, "backbone": 0.001},
            {"kind": "decay", "factor": 0.5, "backbone": 0.0004},
        ),
        (
            {"kind": "list", "stages": [{"match": "fire[89]", "lr": 1e-5}]},
            {"kind": "list", "stages": ({"match": "fire[89]", "lr": 4e-6},)},
        ),
    ],
)
def test_settings_keep_the_proportions_of_rates(tmp_path, rates, expected):
    job = tmp_path / "job.yaml"
    job.write_text(dump_job(colour_spec(train__rates=rates)))
    train = load_job(job).train
    changed = load_job(job, settings(train, 0.002)).train
    assert changed.optimizer == train.optimizer.model_copy(update={"lr": 0.002})
    assert changed.rates.model_dump() == expected
