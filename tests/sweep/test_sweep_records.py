"""Sweeps in the store, and which trial is the best."""

import math

import pytest

from colours import colour_spec
from graft.errors import NotFoundError, ObjectExists, SpecError
from graft.spec import Sweep, parse_job
from graft.sweep.best_trial import best_trial, ranked
from graft.sweep.search import warm_trials
from graft.sweep.sweep_list import list_sweep_rows
from graft.sweep.sweep_plan import Facts, Resolved, Splits, StageCost, Throughput, make_sweep_plan
from graft.sweep.sweep_records import (
    SweepResult,
    TrialEpoch,
    TrialRecord,
    count_states,
    create_sweep,
    publish_sweep,
    put_trial,
    read_plan,
    read_sweep,
    read_sweep_result,
    read_trials,
    trial_epochs,
)

RATE = "train.optimizer.lr"


def record(number, accuracies, state="finished", loss=1.0, changes=None, **more):
    epochs = tuple(
        TrialEpoch(
            epoch=epoch,
            train={"loss": loss, "accuracy": accuracy},
            val={"loss": loss, "accuracy": accuracy},
        )
        for epoch, accuracy in enumerate(accuracies, 1)
    )
    return TrialRecord(
        number=number,
        id=f"{number:012x}",
        changes=changes or {RATE: 0.1},
        state=state,
        epochs=epochs,
        seconds=1.0,
        ended_s=float(number),
        **more,
    )


def some_sweep(**changes):
    base = colour_spec().model_dump(mode="json", by_alias=True) | {"register": None}
    document = {
        "kind": "sweep",
        "name": "colours",
        "base": base,
        "space": {RATE: {"log_uniform": [1e-3, 1]}},
        "search": {"kind": "tpe", "trials": 9},
    }
    return parse_job(document | changes, "test", Sweep)


def some_plan(sweep):
    facts = Facts(9, 3, (StageCost("stem", 1.0, 8),), 1.0, 1, 0, Splits(9, 3))
    trials = [Resolved({RATE: 0.1}, sweep.base, facts)]
    return make_sweep_plan(sweep, trials, Throughput(gflops=1.0, images=1.0))


def some_result(sweep_id, trials):
    return SweepResult(
        sweep=sweep_id,
        metric="val.accuracy",
        mode="max",
        best=best_trial(trials, "val.accuracy", "max"),
        run=None,
        model=None,
        metrics={},
        seconds=9.0,
        states=count_states(trials),
        trunk_images=0,
        cached_images=0,
        trials=tuple(trials),
        created="2026-01-01T00:00:00+00:00",
    )


def test_a_sweep_is_kept_with_its_plan_its_trials_and_its_result(store):
    sweep = some_sweep()
    assert [row.sweep for row in list_sweep_rows(store)] == []
    sweep_id = create_sweep(store, sweep, some_plan(sweep))
    assert sweep_id.startswith("colours-")
    assert [row.sweep for row in list_sweep_rows(store)] == [sweep_id]
    assert read_sweep(store, sweep_id) == sweep
    assert read_plan(store, sweep_id) == some_plan(sweep)
    assert read_trials(store, sweep_id) == []
    assert read_sweep_result(store, sweep_id) is None
    # By number, not by name: 10 comes after 9.
    trials = [record(n, [0.1 * n]) for n in range(1, 11)]
    for trial in reversed(trials):
        put_trial(store, sweep_id, trial)
    assert read_trials(store, sweep_id) == trials
    result = some_result(sweep_id, trials)
    publish_sweep(store, result)
    assert read_sweep_result(store, sweep_id) == result


def test_a_plan_without_a_spec_is_no_sweep(store):
    sweep = some_sweep()
    sweep_id = create_sweep(store, sweep, some_plan(sweep))
    store.write("sweeps/killed-20260101-000000-abcd/plan.json", b"{}")
    assert [row.sweep for row in list_sweep_rows(store)] == [sweep_id]
    with pytest.raises(NotFoundError, match=f"no sweep '{sweep_id[:-1]}' in .*; did you mean"):
        read_sweep(store, sweep_id[:-1])


def test_a_trial_is_committed_once(store):
    sweep = some_sweep()
    sweep_id = create_sweep(store, sweep, some_plan(sweep))
    put_trial(store, sweep_id, record(1, [0.5]))
    put_trial(store, sweep_id, record(1, [0.5]))  # a retried request
    with pytest.raises(ObjectExists):
        put_trial(store, sweep_id, record(1, [0.6]))
    assert read_trials(store, sweep_id) == [record(1, [0.5])]


def test_the_best_trial_is_best_in_its_best_epoch():
    trials = [record(1, [0.5, 0.9, 0.7]), record(2, [0.8, 0.85])]
    best = best_trial(trials, "val.accuracy", "max")
    assert (best.number, best.epoch, best.value) == (1, 2, 0.9)
    assert best_trial([], "val.accuracy", "max") is None


def test_less_is_better_for_a_loss():
    trials = [record(1, [0.5], loss=0.4), record(2, [0.5], loss=0.2), record(3, [0.5], loss=0.3)]
    assert best_trial(trials, "val.loss", "min").number == 2
    assert [trial.number for trial, _ in ranked(trials, "val.loss", "min")] == [2, 3, 1]


def test_of_two_alike_the_lower_loss_wins_then_the_first():
    assert (
        best_trial([record(1, [0.9], loss=2), record(2, [0.9])], "val.accuracy", "max").number == 2
    )
    assert best_trial([record(2, [0.9]), record(1, [0.9])], "val.accuracy", "max").number == 1
    assert best_trial([record(1, [0.9, 0.9])], "val.accuracy", "max").epoch == 1


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_a_trial_that_failed_or_diverged_never_wins(state):
    lost = record(1, [0.99], state=state, error="out of memory")
    assert best_trial([lost], "val.accuracy", "max") is None
    trials = [lost, record(2, [0.1], state="stopped"), record(3, [])]
    assert best_trial(trials, "val.accuracy", "max").number == 2
    assert [trial.number for trial, _ in ranked(trials, "val.accuracy", "max")] == [2, 1, 3]


def test_epochs_end_before_the_first_number_that_is_none():
    good = {"loss": 1.0, "accuracy": 0.5, "recall": {"a": None}, "confusion": [[1]]}
    epochs, problem = trial_epochs([(1, good, good), (2, good, good | {"loss": math.nan})])
    assert [(e.epoch, e.val) for e in epochs] == [(1, {"loss": 1.0, "accuracy": 0.5})]
    assert problem == "val loss was nan in epoch 2"
    assert trial_epochs([(1, good, good)])[1] is None
    epochs, problem = trial_epochs([(1, good | {"loss": math.inf}, good)])
    assert (epochs, problem) == ((), "train loss was inf in epoch 1")


def test_a_warm_start_takes_the_trials_that_lie_in_the_space(store):
    earlier = some_sweep()
    sweep_id = create_sweep(store, earlier, some_plan(earlier))
    put_trial(store, sweep_id, record(1, [0.5], changes={RATE: 0.5}))
    put_trial(store, sweep_id, record(2, [0.5], changes={RATE: 0.01}))
    put_trial(store, sweep_id, record(3, [0.5], changes={RATE: 0.01}, state="failed"))
    narrow = {RATE: {"log_uniform": [0.1, 1]}}
    assert [r.number for r in warm_trials(store, some_sweep(warm_start=sweep_id))] == [1, 2]
    warm = warm_trials(store, some_sweep(warm_start=sweep_id, space=narrow))
    assert [r.number for r in warm] == [1]
    assert warm_trials(store, some_sweep()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warm_start": "nothing"}, "no sweep 'nothing'"),
        (
            {"space": {"train.label_smoothing": {"uniform": [0, 0.1]}}},
            "no trial of .* lies in th",
        ),
        ({"search": {"kind": "tpe", "trials": 9, "metric": "val.macro_f1"}}, "by val.accuracy, se"),
    ],
)
def test_a_warm_start_that_teaches_nothing_is_refused(tmp_path, changes, said):
    from graft.store import Store

    store = Store.open(str(tmp_path))
    earlier = some_sweep()
    sweep_id = create_sweep(store, earlier, some_plan(earlier))
    put_trial(store, sweep_id, record(1, [0.5]))
    with pytest.raises((NotFoundError, SpecError), match=said):
        warm_trials(store, some_sweep(**({"warm_start": sweep_id} | changes)))
