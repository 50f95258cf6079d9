"""Which epoch is best, and what ends training before its last one."""

import math

import pytest

from graft.spec import Train
from graft.training.best_epoch_and_stopping import (
    Criterion,
    is_over,
    not_finite,
    stops_early,
)
from graft.training.run_records import Epoch


def epochs(*values, loss=None):
    """Epochs of these accuracies, and of these losses, or of one loss."""
    losses = loss or [1.0] * len(values)
    return [
        Epoch(epoch=number, train={}, val={"accuracy": accuracy, "loss": value})
        for number, (accuracy, value) in enumerate(zip(values, losses, strict=True), 1)
    ]


@pytest.mark.parametrize(
    ("criterion", "best"),
    [
        (Criterion.of(Train()), 3),  # of the same accuracy, that of the lower loss
        (Criterion.of(Train(metric="val.loss")), 4),
        (Criterion("val.accuracy", "max"), 3),
        (Criterion("val.loss", "min"), 4),
        (Criterion("val.accuracy", "min"), 1),
    ],
)
def test_the_best_epoch(criterion, best):
    history = epochs(0.1, 0.9, 0.9, 0.5, loss=[0.5, 0.4, 0.3, 0.2])
    assert criterion.best(history).epoch == best
    so_far = None
    for epoch in history:
        so_far = epoch if criterion.better(epoch, so_far) else so_far
    assert so_far.epoch == best


def test_without_the_metric_no_epoch_is_best():
    assert Criterion("val.top5_accuracy", "max").best(epochs(0.5)) is None
    assert Criterion.of(Train()).best([]) is None


@pytest.mark.parametrize(
    ("values", "stopping", "stops"),
    [
        ((0.5, 0.5, 0.5), {"patience": 2}, True),
        ((0.5, 0.5, 0.6), {"patience": 2}, False),
        ((0.5, 0.55, 0.58), {"patience": 2, "min_delta": 0.1}, True),
        ((0.5, 0.4, 0.3), {"metric": "loss", "patience": 1}, True),  # the losses are all 1
        ((), {"patience": 1}, False),
    ],
)
def test_training_stops_once_validation_gets_no_better(values, stopping, stops):
    history = epochs(*values)
    assert stops_early(history, Train(early_stopping=stopping)) == stops
    assert not stops_early(history, Train())


def test_training_stops_by_the_metric_that_chooses_the_best_epoch():
    history = epochs(0.5, 0.6, 0.7, loss=[0.1, 0.2, 0.3])
    patient = {"patience": 2}
    assert not stops_early(history, Train(early_stopping=patient))
    assert stops_early(history, Train(metric="val.loss", early_stopping=patient))
    assert not stops_early(
        history, Train(metric="val.loss", early_stopping={"metric": "accuracy"} | patient)
    )


def test_training_is_over_after_the_last_epoch_or_early():
    history = epochs(0.5, 0.5, 0.5)
    assert is_over(history, Train(epochs=3))
    assert not is_over(history, Train(epochs=4))
    assert is_over(history, Train(epochs=4, early_stopping={"patience": 2}))
    assert not is_over([], Train(epochs=1))


def test_training_diverged_where_a_number_is_not_finite():
    good = {"loss": 1.0, "recall": {"a": None}, "confusion": [[1]]}
    assert not_finite(3, good, good) is None
    assert not_finite(3, good, good | {"ece": math.nan}) == "val ece was nan in epoch 3"
    assert not_finite(3, good | {"loss": math.inf}, good) == "train loss was inf in epoch 3"
