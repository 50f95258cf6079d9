"""Cached activations: the same numbers as without, computed once, read by whoever comes later."""

import functools
import queue
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from activations_lab import BATCH, make_lab
from colours import colour_spec, draw_colours, new_run, train_together
from graft.activations.compute import BATCH_SIZE
from graft.activations.key import CacheEntry
from graft.activations.lease import hold_lease
from graft.activations.list_and_remove import list_activations
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.errors import SpecError
from graft.store import Store
from graft.training import run_activations
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.confusion_matrix import read_confusion
from graft.training.events import Note, TrunkComputing, Validated
from graft.training.run_records import read_result

RESNET = {"backbone": {"arch": "timm/test_resnet", "weights": "none"}}
SQUEEZENET = {"backbone": {"arch": "squeezenet1_1", "weights": "none"}}
NETWORKS = {"test_resnet": RESNET, "squeezenet1_1": SQUEEZENET}
TWO_VIEWS = {
    "augment": {"kind": "standard", "views": 2},
    "train__batch_size": BATCH_SIZE,
    "train__epochs": 3,
}
"""Over whole batches: one view is read twice, the other once."""


@pytest.fixture(scope="module")
def imported_whole(tmp_path_factory) -> Path:
    """The folder of a store whose dataset has no short batch: 64 images to train on, 32 to val."""
    images = draw_colours(tmp_path_factory.mktemp("whole"), train=22, val=11)
    for spare in ("train/red/0.png", "train/green/0.png", "val/red/0.png"):
        (images / spare).unlink()
    folder = tmp_path_factory.mktemp("imported") / "store"
    import_dataset(Store.open(str(folder)), str(images), "colours", test_fraction=0)
    return folder


@pytest.fixture
def whole_store(imported_whole, tmp_path) -> Store:
    """A store of its own."""
    return Store.open(str(shutil.copytree(imported_whole, tmp_path / "store")))


@pytest.fixture(scope="module")
def two_views(imported_whole, tmp_path_factory, numbers_of):
    """Return a function from a network, a depth and changes to a store and a run's numbers there.

    One run for all who ask for the same: they only read.
    """

    @functools.cache
    def trained(network, freeze, **changes):
        store = Store.open(str(shutil.copytree(imported_whole, tmp_path_factory.mktemp("s") / "s")))
        spec = {**NETWORKS[network], "backbone__freeze": freeze, **TWO_VIEWS, **changes}
        return store, numbers_of(store, colour_spec(**spec))

    return trained


def decisions(events):
    return [event.text for event in events if isinstance(event, Note)]


def computed(events):
    return max((e.images for e in events if isinstance(e, TrunkComputing)), default=0)


def same(tail, other):
    return tail.keys() == other.keys() and all(torch.equal(tail[k], other[k]) for k in tail)


@pytest.mark.parametrize(
    ("network", "freeze"),
    [
        ("test_resnet", 2),
        ("squeezenet1_1", "all"),
        pytest.param("test_resnet", "all", marks=pytest.mark.slow),
        pytest.param("test_resnet", -1, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", -1, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", 2, marks=pytest.mark.slow),
    ],
)
def test_with_cached_activations_a_run_has_the_very_numbers_of_one_without(
    two_views, network, freeze
):
    _, without = two_views(network, freeze, cache="off")
    store, cached = two_views(network, freeze, cache="on")
    assert cached.history == without.history
    assert same(cached.tail, without.tail)
    assert store.children("activations/")


def test_a_label_budget_reads_the_activations_of_the_whole_split(whole_store, numbers_of):
    spec = {
        **RESNET,
        "backbone__freeze": "all",
        "dataset": {"name": "colours", "labels": 0.5, "holdout": 0.25},
        "augment": {"kind": "standard", "views": 2},
        "train__batch_size": 12,
        "train__epochs": 2,
    }
    off, on, again = (
        numbers_of(whole_store, colour_spec(**spec, cache=cache)) for cache in ("off", "on", "on")
    )
    for first, second in zip(off.history, on.history, strict=True):
        assert first[0] == pytest.approx(second[0], rel=1e-4)
        assert first[1]["loss"] == pytest.approx(second[1]["loss"], rel=1e-4)
    assert on.history == again.history
    assert computed(on.events) == 64 * 3  # two views, and the one of what is held out
    assert computed(again.events) == 0
    checkpoint = latest_checkpoint(whole_store, again.run)
    confusion = read_confusion(whole_store, checkpoint.folder, checkpoint.confusion)
    # A quarter of half of 22, 21, 21.
    assert confusion.counts.sum(1).tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("network", "freeze"),
    [("test_resnet", 2), pytest.param("squeezenet1_1", "all", marks=pytest.mark.slow)],
)
def test_float16_takes_half_the_bytes_and_moves_losses_by_rounding(two_views, network, freeze):
    exact_store, exact = two_views(network, freeze, cache="on")
    half_store, half = two_views(network, freeze, cache="on", cache_dtype="float16")
    nbytes = {}
    for dtype, store in (("float32", exact_store), ("float16", half_store)):
        entries = list_activations(store)
        assert {entry.key.dtype for entry in entries} == {dtype}
        nbytes[dtype] = sum(entry.bytes for entry in entries)
    assert nbytes["float16"] == pytest.approx(nbytes["float32"] / 2, rel=0.05)  # and some headers
    assert exact.history != half.history
    for first, second in zip(exact.history, half.history, strict=True):
        for part in (0, 1):
            assert first[part]["loss"] == pytest.approx(second[part]["loss"], rel=5e-2, abs=1e-3)


def test_at_another_batch_size_the_numbers_are_the_same_but_for_rounding(colour_store, numbers_of):
    spec = {**RESNET, "backbone__freeze": "all", "augment": {"kind": "none"}, "train__epochs": 2}
    off, on = (
        numbers_of(colour_store, colour_spec(**spec, train__batch_size=7, cache=cache))
        for cache in ("off", "on")
    )
    for first, second in zip(off.history, on.history, strict=True):
        assert first[0] == pytest.approx(second[0], rel=1e-4)
        assert first[1]["loss"] == pytest.approx(second[1]["loss"], rel=1e-4)


def test_a_second_run_computes_nothing(colour_store, numbers_of):
    spec = {
        **RESNET,
        "backbone__freeze": "all",
        "augment": {"kind": "standard", "views": 2},
        "train__epochs": 2,
    }
    first = numbers_of(colour_store, colour_spec(**spec, cache="on"))
    assert computed(first.events) == 39 * 2 + 15
    other = colour_spec(**spec, cache="auto", train__optimizer={"kind": "adamw", "lr": 0.01})
    second = numbers_of(colour_store, other)
    assert computed(second.events) == 0
    assert "all of them are in the store" in decisions(second.events)[0]


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


class Exchange:
    """What two workers that are threads of this process say to each other."""

    def __init__(self):
        self.messages, self.to_second = [], queue.Queue()
        self.values, self.barrier = [None, None], threading.Barrier(2, timeout=120)


class ThreadRanks:
    """One of the two, in place of `Ranks`."""

    size = 2

    def __init__(self, rank, exchange):
        self.rank, self._exchange = rank, exchange

    def from_first(self, value):
        if self.rank:
            return self._exchange.to_second.get(timeout=120)
        self._exchange.messages.append(value)
        self._exchange.to_second.put(value)
        return value

    def gather(self, value):
        self._exchange.values[self.rank] = value
        self._exchange.barrier.wait()
        gathered = list(self._exchange.values)
        self._exchange.barrier.wait()
        return gathered


def test_workers_wait_for_another_process_and_then_compute_rounds(colour_store):
    lab = make_lab(colour_store, open_dataset(colour_store, "colours"))
    cache, entries = lab.cache(), [CacheEntry("train", 1, 3), CacheEntry("val", 0, 3)]
    lease = f"activations/claims/{cache.keys.chain.digests[1][:16]}-colours.json"
    notes, waiting = [], threading.Event()

    def post(event):
        if isinstance(event, Note):
            notes.append(event.text)
            waiting.set()

    exchange = Exchange()
    first, second = (  # with a network each, as in processes
        run_activations._Workers(cache, make_lab(colour_store, lab.dataset).setup, ranks, post)
        for ranks in (ThreadRanks(0, exchange), ThreadRanks(1, exchange))
    )
    with ThreadPoolExecutor(2) as pool:
        with hold_lease(colour_store, lease):
            leading, following = pool.submit(first.lead, entries), pool.submit(second.follow)
            assert waiting.wait(120)
        activations = leading.result(120)
        following.result(120)
    (note,) = notes
    assert note.startswith("waiting for activations that process ")
    kinds = [type(message).__name__ for message in exchange.messages]
    beats = kinds.count("_Heartbeat")
    assert beats >= 1
    assert kinds == ["_Heartbeat"] * beats + ["_Round", "_Round", "_End"]
    assert [len(message.tasks) for message in exchange.messages[beats:-1]] == [2, 1]
    for entry in entries:
        rows = lab.digests(entry.split, range(BATCH))
        assert torch.equal(activations[entry].take(rows), lab.direct(entry, range(BATCH)))


def test_unfreezing_reads_the_activations_of_each_depth(whole_store, numbers_of):
    spec = {
        **RESNET,
        "backbone__freeze": "all",
        "augment": {"kind": "standard", "views": 1},
        "train__batch_size": BATCH_SIZE,
        "train__epochs": 3,
        "train__unfreeze": [{"epoch": 3, "freeze": "layer2"}],
    }
    off, on = (numbers_of(whole_store, colour_spec(**spec, cache=cache)) for cache in ("off", "on"))
    assert [text.split(":")[0] for text in decisions(on.events)] == [
        "5 frozen stages",
        "3 frozen stages",
    ]
    assert on.history == off.history
    assert same(on.tail, off.tail)


def test_a_run_that_is_resumed_goes_on_with_cached_activations(two_views, train_alone):
    store, unbroken = two_views("squeezenet1_1", "all", cache="on")
    spec = colour_spec(**SQUEEZENET, backbone__freeze="all", **TWO_VIEWS, cache="on")
    broken = new_run(store, spec)

    def stop(event):
        if isinstance(event, Validated) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(store, broken, stop)
    train_alone(store, broken)
    last = latest_checkpoint(store, broken)
    assert (last.attempt, last.epoch) == (2, 3)
    assert same(load_state(store, last).tail, unbroken.tail)


@pytest.mark.slow
def test_a_resume_caches_what_the_first_attempt_did_whatever_others_have_cached(
    colour_store, train_alone, numbers_of
):
    """In batches of 8, what this trunk gives is not bit for bit what is cached."""
    changes = {
        **SQUEEZENET,
        "backbone__freeze": "all",
        "augment": {"kind": "standard", "views": 3},
        "train__epochs": 3,
    }
    spec = colour_spec(**changes)
    unbroken = numbers_of(colour_store, spec)
    assert any("train is read too seldom" in text for text in decisions(unbroken.events))
    broken = new_run(colour_store, spec)

    def stop(event):
        if isinstance(event, Validated) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(colour_store, broken, stop)
    others = numbers_of(colour_store, colour_spec(**changes, cache="on"))
    assert not same(others.tail, unbroken.tail)  # else this shows nothing
    train_alone(colour_store, broken)
    assert same(
        load_state(colour_store, latest_checkpoint(colour_store, broken)).tail, unbroken.tail
    )


def test_where_nothing_is_frozen_there_is_nothing_to_cache(colour_store, train_alone, numbers_of):
    free = {**RESNET, "backbone__freeze": 0, "train__epochs": 1}
    events = numbers_of(colour_store, colour_spec(**free)).events
    assert decisions(events) == ["not cached: nothing is frozen"]
    run = new_run(colour_store, colour_spec(**free, cache="on"))
    with pytest.raises(SpecError, match="cache: on has no effect: nothing is frozen"):
        train_alone(colour_store, run)


def test_a_store_may_hold_so_many_bytes_of_activations(colour_store, train_alone, monkeypatch):
    # Read so often that there is no doubt that they are worth their time.
    spec = {
        **SQUEEZENET,
        "backbone__freeze": "all",
        "augment": {"kind": "standard", "views": 2},
        "train__epochs": 100,
    }

    def events_until(kind, **changes):
        events = []

        def stop(event):
            events.append(event)
            if isinstance(event, kind):
                raise KeyboardInterrupt

        run = new_run(colour_store, colour_spec(**spec, **changes))
        with pytest.raises(KeyboardInterrupt):
            train_alone(colour_store, run, stop)
        return events

    monkeypatch.setenv("GRAFT_ACTIVATIONS_GB", "0.0001")
    (decision,) = decisions(events_until(Note))
    assert "not cached: activations take " in decision
    assert "the store has room for 100 kB" in decision
    events_until(Validated)
    assert not colour_store.children("activations/")
    monkeypatch.setenv("GRAFT_ACTIVATIONS_GB", "0.001")
    events_until(Validated, cache="on")
    assert colour_store.children("activations/")


def test_activations_of_some_epochs_are_cached_where_later_ones_freeze_nothing(
    colour_store, numbers_of
):
    spec = colour_spec(
        **RESNET,
        backbone__freeze="all",
        augment={"kind": "standard", "views": 1},
        train__epochs=2,
        train__unfreeze=[{"epoch": 2, "freeze": 0}],
        cache="on",
    )
    assert computed(numbers_of(colour_store, spec).events) == 39 + 15
