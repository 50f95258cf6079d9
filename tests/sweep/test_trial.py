"""A trial's progress, and which tails of it are stored."""

import pytest
import torch

from graft.store import Store
from graft.sweep.sweep_records import TrialEpoch
from graft.sweep.trial import BestTail, Progress, Selection


def metrics(accuracy):
    return {"loss": 1.0, "accuracy": accuracy}


def follower(store, progress=None, weights="best"):
    selection = Selection("val.accuracy", "max", weights)
    return BestTail(store, "sweep", 1, selection, progress or Progress())


def follow(best, accuracies, start=1):
    """Follow epochs, each with a tail of its own; return the keys of the newest tails."""
    keys = []
    for epoch, accuracy in enumerate(accuracies, start):
        tail = {"head": torch.tensor([float(epoch)])}
        keys.append(best.follow(epoch, metrics(accuracy), metrics(accuracy), tail).checkpoint)
    return keys


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path))


@pytest.mark.parametrize(
    ("progress", "state"),
    [
        (Progress(), "stopped"),
        (Progress(ended=True), "finished"),
        (Progress(ended=True, diverged="val loss was nan in epoch 1"), "diverged"),
    ],
)
def test_a_trials_state_follows_from_its_progress(progress, state):
    assert progress.state == state


def test_progress_travels_as_json():
    epoch = TrialEpoch(epoch=1, train=metrics(0.1), val=metrics(1 / 3))
    progress = Progress(epochs=(epoch,), checkpoint="a", trunk_images=3, run="r", seconds=0.1)
    assert Progress.model_validate_json(progress.model_dump_json()) == progress


def test_the_tail_of_the_best_epoch_is_stored(store):
    best = follower(store)
    first, second, third = follow(best, [0.5, 0.4, 0.6])
    assert first == second != third
    assert [epoch.epoch for epoch in best.progress.epochs] == [1, 2, 3]
    every = follow(follower(store, weights="last"), [0.5, 0.4])
    assert len(set(every)) == 2


def test_the_tail_before_the_newest_stays_and_older_ones_are_deleted(store):
    keys = follow(follower(store), [0.1, 0.2, 0.3, 0.4])
    assert [store.exists(key) for key in keys] == [False, False, True, True]


def test_a_tail_that_a_trial_resumed_from_is_never_deleted(store):
    inherited = follower(store)
    follow(inherited, [0.1])
    keys = follow(follower(store, inherited.progress), [0.2, 0.3, 0.4], start=2)
    assert store.exists(inherited.progress.checkpoint)
    assert [store.exists(key) for key in keys] == [False, True, True]


def test_a_resumed_trial_still_knows_its_best_epoch(store):
    inherited = follower(store)
    follow(inherited, [0.5])
    (key,) = follow(follower(store, inherited.progress), [0.4], start=2)
    assert key == inherited.progress.checkpoint


def test_a_number_that_is_not_finite_ends_the_trial(store):
    best = follower(store)
    follow(best, [0.5])
    progress = best.follow(2, metrics(float("nan")), metrics(0.9), {})
    assert (progress.state, progress.ended) == ("diverged", True)
    assert progress.diverged == "train accuracy was nan in epoch 2"
    assert [epoch.epoch for epoch in progress.epochs] == [1]
