"""A run that goes on otherwise than it was begun: what may change, and what the result says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from colours import colour_spec, new_run, train_together
from graft.errors import SpecError
from graft.spec import Finetune
from graft.store import Store
from graft.training.amendments import (
    amend_run,
    amended,
    check_changes,
    new_amendment,
    read_amendments,
    record_amendment,
)
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.run_records import read_result, read_spec

SMALL = {"backbone__arch": "timm/test_resnet", "register": None}


def test_what_is_changed_is_in_the_spec_and_the_recorded_one_stays(colour_store: Store) -> None:
    spec = colour_spec(**SMALL)
    run = new_run(colour_store, spec)
    recorded = colour_store.read(f"runs/{run}/spec.yaml").data
    amend_run(colour_store, run, spec, "ada", {"train.epochs": "5"})
    for _ in range(2):  # the second time changes nothing
        workers = {"scaling.workers": "2"}
        new, result = new_amendment(colour_store, run, spec, "grace", workers, "gpu-a100")
        record_amendment(colour_store, run, new)
    assert result.scaling.workers == 2
    now = read_spec(colour_store, run)
    assert (now.train.epochs, now.scaling.workers) == (5, 2)
    assert colour_store.read(f"runs/{run}/spec.yaml").data == recorded
    first, second = read_amendments(colour_store, run)
    assert (str(first), first.who, first.is_exact) == ("train.epochs=5", "ada", True)
    assert (str(second), second.is_exact) == ("scaling.workers=2, class gpu-a100", False)
    assert amended(spec, ()) == spec


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (colour_spec(**SMALL), "train.optimizer.lr=1", "optimizer.lr cannot change in a run that"),
        (colour_spec(**SMALL), "backbone.freeze=2", "weights: model://NAME"),
        (colour_spec(**SMALL), "train.epochs=2", "has at least its 3 epochs"),
        (
            colour_spec(**SMALL, train__schedule={"kind": "cosine"}),
            "train.epochs=5",
            "with cosine the epochs that are trained already would have been others",
        ),
        (
            colour_spec(**SMALL, backbone__freeze=-2, train__unfreeze=[{"epoch": 2, "freeze": 0}]),
            "train.epochs=5",
            "with gradual unfreezing",
        ),
    ],
)
def test_what_cannot_change(spec: Finetune, change: str, message: str) -> None:
    key, _, value = change.partition("=")
    with pytest.raises(SpecError, match=message):
        check_changes(spec, {key: value})


@pytest.mark.slow
def test_more_epochs_give_the_weights_of_a_run_that_had_them(
    colour_store: Store, train_alone: Callable[..., object], numbers_of: Callable[..., Any]
) -> None:
    run = numbers_of(colour_store, colour_spec(**SMALL, train__epochs=2)).run
    whole = numbers_of(colour_store, colour_spec(**SMALL, train__epochs=3))
    amend_run(colour_store, run, read_spec(colour_store, run), "ada", {"train.epochs": "3"})
    train_alone(colour_store, run)
    result, checkpoint = read_result(colour_store, run), latest_checkpoint(colour_store, run)
    assert result is not None
    assert checkpoint is not None
    assert (len(result.history), result.amendments) == (3, ("train.epochs=3",))
    assert result.bit_identical
    tail = load_state(colour_store, checkpoint).tail
    assert all(torch.equal(tail[name], value) for name, value in whole.tail.items())


@pytest.mark.slow  # processes of its own
def test_a_run_goes_on_with_more_workers_and_says_so(
    colour_store: Store, numbers_of: Callable[..., Any]
) -> None:
    run = numbers_of(colour_store, colour_spec(**SMALL, train__epochs=2)).run
    changes = {"train.epochs": "3", "scaling.workers": "2"}
    amend_run(colour_store, run, read_spec(colour_store, run), "ada", changes)
    assert train_together(colour_store, run, 2) == [0, 0]
    result = read_result(colour_store, run)
    assert result is not None
    assert len(result.history) == 3
    assert not result.bit_identical
    assert result.amendments == ("train.epochs=3, scaling.workers=2",)
