"""Kept activations: the same numbers as without, computed once, read by whoever comes later."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from colours import colour_spec, draw_colours, new_run, train_together
from graft.activations.catalogue import list_activations
from graft.activations.compute import BATCH_SIZE
from graft.data.importing import import_dataset
from graft.errors import SpecError
from graft.registry import get_model
from graft.store import Store
from graft.training.events import Keeping, Validated
from graft.training.runs import read_result

RESNET = {"backbone": {"arch": "resnet18", "weights": "none"}}
SQUEEZENET = {"backbone": {"arch": "squeezenet1_1", "weights": "none"}}


@pytest.fixture(scope="module")
def whole_batches(tmp_path_factory) -> Path:
    """Images of which no batch is short."""
    return draw_colours(tmp_path_factory.mktemp("whole"), train=32, val=32)


@pytest.fixture
def whole_store(whole_batches, tmp_path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(whole_batches), "colours")
    return store


def tail_of(store, run):
    version = get_model(store, read_result(store, run).model)
    return load(store.get(version.folder, version.tail))


def decisions(events):
    return [event.text for event in events if isinstance(event, Keeping) and not event.total]


def computed(events):
    return max((e.images for e in events if isinstance(e, Keeping)), default=0)


@pytest.mark.parametrize("freeze", ["all", -1, 2])
@pytest.mark.parametrize("arch", [RESNET, SQUEEZENET], ids=["resnet18", "squeezenet1_1"])
def test_with_kept_activations_a_run_has_the_very_numbers_of_one_without(
    whole_store, train_alone, arch, freeze
):
    spec = {
        **arch,
        "backbone__freeze": freeze,
        "augment": {"kind": "standard", "views": 2},
        "train__batch_size": BATCH_SIZE,
        "train__epochs": 3,
    }
    runs = {}
    for cache in ("off", "on"):
        runs[cache] = new_run(whole_store, colour_spec(**spec, cache=cache))
        train_alone(whole_store, runs[cache])
    without, kept = (read_result(whole_store, run) for run in runs.values())
    assert kept.history == without.history
    assert kept.metrics == without.metrics
    tails = [tail_of(whole_store, run) for run in runs.values()]
    assert all(torch.equal(tails[0][name], tails[1][name]) for name in tails[0])
    assert whole_store.children("activations/")


def test_a_label_budget_reads_the_activations_of_the_whole_split(whole_store, train_alone):
    spec = {
        **RESNET,
        "backbone__freeze": "all",
        "dataset": {"name": "colours", "labels": 0.5, "holdout": 0.25},
        "augment": {"kind": "standard", "views": 2},
        "train__batch_size": 12,
        "train__epochs": 3,
    }
    histories = []
    for cache in ("off", "on", "on"):
        run = new_run(whole_store, colour_spec(**spec, cache=cache))
        events = train_alone(whole_store, run)
        histories.append(read_result(whole_store, run).history)
    for one, other in zip(histories[0], histories[1], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert histories[1] == histories[2]
    assert computed(events) == 0
    confusion = read_result(whole_store, run).metrics["val"]["confusion"]
    assert [sum(row) for row in confusion] == [4, 4, 4]  # a quarter of half of 32


@pytest.mark.parametrize("freeze", ["all", 2])
def test_float16_takes_half_the_bytes_and_moves_losses_by_rounding(
    whole_store, train_alone, freeze
):
    spec = {
        **RESNET,
        "backbone__freeze": freeze,
        "augment": {"kind": "standard", "views": 2},
        "train__batch_size": BATCH_SIZE,
        "train__epochs": 3,
    }
    histories = []
    for changes in ({"cache": "on"}, {"cache": "on", "cache_dtype": "float16"}):
        run = new_run(whole_store, colour_spec(**spec, **changes))
        train_alone(whole_store, run)
        histories.append(read_result(whole_store, run).history)
    kept = dict.fromkeys(("float32", "float16"), 0)
    for entry in list_activations(whole_store):
        kept[entry.key.dtype] += entry.bytes
    assert kept["float16"] == pytest.approx(kept["float32"] / 2, rel=0.05)  # and some headers
    assert histories[0] != histories[1]
    for one, other in zip(*histories, strict=True):
        for loss in ("train_loss", "val_loss"):
            assert one[loss] == pytest.approx(other[loss], rel=5e-2, abs=1e-3)


def test_at_another_batch_size_the_numbers_are_the_same_but_for_rounding(whole_store, train_alone):
    spec = {**RESNET, "backbone__freeze": "all", "augment": {"kind": "none"}, "train__epochs": 2}
    results = []
    for cache in ("off", "on"):
        run = new_run(whole_store, colour_spec(**spec, train__batch_size=7, cache=cache))
        train_alone(whole_store, run)
        results.append(read_result(whole_store, run))
    for one, other in zip(results[0].history, results[1].history, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_second_run_computes_nothing(colour_store, train_alone):
    spec = {**RESNET, "backbone__freeze": "all", "augment": {"kind": "standard", "views": 2}}
    first = train_alone(colour_store, new_run(colour_store, colour_spec(**spec, cache="on")))
    assert computed(first) == 39 * 2 + 15
    other = colour_spec(**spec, cache="auto", train__optimizer={"kind": "adamw", "lr": 0.01})
    second = train_alone(colour_store, new_run(colour_store, other))
    assert computed(second) == 0
    assert "all of them are in the store" in decisions(second)[0]


@pytest.mark.slow
def test_two_workers_compute_and_read_together(colour_store):
    spec = {
        **RESNET,
        "backbone__freeze": -1,
        "augment": {"kind": "standard", "views": 1},
        "train__epochs": 2,
        "scaling": {"workers": 2},
    }
    losses = []
    for cache in ("off", "on"):
        run = new_run(colour_store, colour_spec(**spec, cache=cache))
        assert train_together(colour_store, run, 2) == [0, 0]
        losses.append([e["val_loss"] for e in read_result(colour_store, run).history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_unfreezing_reads_the_activations_of_each_depth(whole_store, train_alone):
    spec = {
        **RESNET,
        "backbone__freeze": "all",
        "augment": {"kind": "standard", "views": 1},
        "train__batch_size": BATCH_SIZE,
        "train__epochs": 4,
        "train__unfreeze": [{"epoch": 3, "freeze": "layer2"}],
    }
    runs, events = {}, {}
    for cache in ("off", "on"):
        runs[cache] = new_run(whole_store, colour_spec(**spec, cache=cache))
        events[cache] = train_alone(whole_store, runs[cache])
    assert [text.split(":")[0] for text in decisions(events["on"])] == [
        "5 frozen stages",
        "3 frozen stages",
    ]
    tails = [tail_of(whole_store, run) for run in runs.values()]
    assert all(torch.equal(tails[0][name], tails[1][name]) for name in tails[0])


def test_a_run_that_is_resumed_goes_on_with_kept_activations(whole_store, train_alone):
    spec = colour_spec(
        **SQUEEZENET,
        backbone__freeze="all",
        augment={"kind": "standard", "views": 2},
        train__batch_size=BATCH_SIZE,
        cache="on",
    )
    unbroken, broken = new_run(whole_store, spec), new_run(whole_store, spec)
    train_alone(whole_store, unbroken)

    def stop(event):
        if isinstance(event, Validated) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(whole_store, broken, stop)
    train_alone(whole_store, broken)
    tails = [tail_of(whole_store, run) for run in (unbroken, broken)]
    assert all(torch.equal(tails[0][name], tails[1][name]) for name in tails[0])


def test_where_nothing_is_frozen_there_is_nothing_to_keep(colour_store, train_alone):
    run = new_run(colour_store, colour_spec(backbone__freeze=0, train__epochs=1))
    assert decisions(train_alone(colour_store, run)) == ["not cached: nothing is frozen"]
    run = new_run(colour_store, colour_spec(backbone__freeze=0, train__epochs=1, cache="on"))
    with pytest.raises(SpecError, match="cache: on has no effect: nothing is frozen"):
        train_alone(colour_store, run)


def test_a_store_may_hold_so_many_bytes_of_activations(colour_store, train_alone, monkeypatch):
    spec = {**RESNET, "backbone__freeze": "all", "augment": {"kind": "standard", "views": 2}}
    monkeypatch.setenv("GRAFT_ACTIVATIONS_GB", "0.0001")
    events = train_alone(colour_store, new_run(colour_store, colour_spec(**spec)))
    assert "not cached: activations take " in decisions(events)[0]
    assert "the store has room for 100 kB" in decisions(events)[0]
    monkeypatch.setenv("GRAFT_ACTIVATIONS_GB", "0.001")
    train_alone(colour_store, new_run(colour_store, colour_spec(**spec, cache="on")))
    assert colour_store.children("activations/")


def test_activations_of_some_epochs_are_kept_where_later_ones_freeze_nothing(
    colour_store, train_alone
):
    spec = colour_spec(
        **RESNET,
        backbone__freeze="all",
        augment={"kind": "standard", "views": 1},
        train__unfreeze=[{"epoch": 3, "freeze": 0}],
        cache="on",
    )
    events = train_alone(colour_store, new_run(colour_store, spec))
    assert computed(events) == 39 + 15
