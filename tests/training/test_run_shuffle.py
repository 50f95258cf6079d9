"""The order of a run is decided once; read in blocks or whole, images give the same weights."""

import shutil

import pytest
import torch

from colours import colour_spec, draw_colours, new_run, train_together
from graft.data.epoch_order import FULL, BlockShuffle
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.data.packing import ShardPlan
from graft.errors import ObjectDamaged
from graft.store import Store, document_bytes, read_document
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.events import Note, Validated
from graft.training.run_records import read_result
from graft.training.run_shuffle import ShuffleRecord, shuffle_of_run, shuffle_of_trial
from s3_gets import gets

BLOCKS = BlockShuffle(block_bytes=20_000, readers=6, buffer=2)
"""Of the 39 images, about 10 blocks."""
SMALL, LARGE = "0.0001", "1"
"""Gigabytes of a cache that has room for one of the shards, and of one that has it for all."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_colours(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def remote(drawn, s3_store_uri, tmp_path, monkeypatch) -> Store:
    """A store on S3 with `colours` in several shards, and a small cache."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFT_CACHE_GB", SMALL)
    monkeypatch.setattr(ShardPlan.__init__, "__defaults__", (0, 60_000))
    store = Store.open(s3_store_uri)
    manifest = import_dataset(store, str(drawn), "colours", test_fraction=0).manifest
    assert len(manifest.shards) > 3
    return store


def decide(store, run, alone, last=None, **changes):
    notes = []
    spec, dataset = colour_spec(**changes), open_dataset(store, "colours")
    shuffle = shuffle_of_run(store, run, spec, dataset, alone, notes.append, last)
    return shuffle, [note.text for note in notes]


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def record(store, run):
    document = document_bytes(ShuffleRecord(shuffle=BLOCKS))
    store.create(f"runs/{run}/shuffle.json", document)


def test_what_no_node_holds_is_shuffled_in_blocks_and_later_attempts_repeat_it(
    remote, alone, monkeypatch
):
    blocks, notes = decide(remote, "a", alone)
    assert blocks == BlockShuffle.for_workers(1)
    assert notes == [
        "shuffled in blocks of 1.0 MB, of which 48 readers mix 16 each (train.shuffle)"
    ]
    assert decide(remote, "b", alone, train__shuffle="full") == (FULL, [])
    monkeypatch.setenv("GRAFT_CACHE_GB", LARGE)
    assert decide(remote, "a", alone)[0] == blocks
    assert decide(remote, "c", alone) == (FULL, [])
    assert decide(remote, "d", alone, train__shuffle="blocks")[0] == blocks
    monkeypatch.setenv("GRAFT_CACHE_GB", SMALL)
    assert decide(remote, "b", alone)[0] == decide(remote, "c", alone)[0] == FULL


def test_a_directory_is_shuffled_in_full(colour_store, alone):
    assert decide(colour_store, "a", alone) == (FULL, [])
    assert read_document(colour_store, "runs/a/shuffle.json", ShuffleRecord).shuffle == FULL
    assert isinstance(decide(colour_store, "b", alone, train__shuffle="blocks")[0], BlockShuffle)


def test_a_run_of_an_earlier_release_goes_on_with_a_full_shuffle(colour_store, alone):
    assert decide(colour_store, "a", alone, last=object(), train__shuffle="blocks") == (FULL, [])


def test_a_record_that_would_take_all_memory_is_refused(colour_store, alone):
    record = '{"shuffle": {"kind": "blocks", "readers": 1000000000}}'
    colour_store.create("runs/a/shuffle.json", record.encode())
    with pytest.raises(ObjectDamaged, match="readers"):
        decide(colour_store, "a", alone)


def test_the_first_trial_decides_for_a_sweep(remote, monkeypatch):
    dataset, spec = open_dataset(remote, "colours"), colour_spec()
    first = shuffle_of_trial(remote, "sweep", spec, dataset)
    assert isinstance(first, BlockShuffle)
    monkeypatch.setenv("GRAFT_CACHE_GB", LARGE)
    roomy = open_dataset(remote, "colours")
    assert shuffle_of_trial(remote, "sweep", spec, roomy) == first
    assert shuffle_of_trial(remote, "another", spec, roomy) == FULL
    full = colour_spec(train__shuffle="full")
    assert shuffle_of_trial(remote, "sweep", full, roomy) == FULL


@pytest.mark.slow
def test_a_streamed_run_that_is_resumed_has_the_weights_of_an_unbroken_one_read_whole(
    remote, train_alone, monkeypatch
):
    spec = colour_spec(train__epochs=2, loader__decoded_cache_mb=0)
    unbroken, broken = (new_run(remote, spec) for _ in range(2))
    for run in (unbroken, broken):
        record(remote, run)

    def stop(event):
        if isinstance(event, Validated) and event.epoch == 1:
            raise KeyboardInterrupt

    asked = gets(remote)
    with pytest.raises(KeyboardInterrupt):
        train_alone(remote, broken, stop)
    assert sum(name.startswith("shard-") for name, _ in asked) > 10
    train_alone(remote, broken)
    monkeypatch.setenv("GRAFT_CACHE_GB", LARGE)
    events = train_alone(remote, unbroken)
    assert any(isinstance(event, Note) and "6 readers" in event.text for event in events)
    results = [read_result(remote, run) for run in (unbroken, broken)]
    assert results[0].history == results[1].history
    tails = [load_state(remote, latest_checkpoint(remote, r)).tail for r in (unbroken, broken)]
    assert same(*tails)


@pytest.mark.slow
def test_several_workers_see_the_batches_of_one_and_go_on_after_a_kill(
    imported_colours, tmp_path, train_alone
):
    store = Store.open(str(shutil.copytree(imported_colours, tmp_path / "store")))
    changes = {"backbone__dropout": 0.0, "train__epochs": 2}
    spec = colour_spec(scaling={"workers": 2}, **changes)
    alone, unbroken, broken = (
        new_run(store, colour_spec(**changes)),
        new_run(store, spec),
        new_run(store, spec),
    )
    for run in (alone, unbroken, broken):
        record(store, run)
    train_alone(store, alone)
    assert train_together(store, unbroken, 2) == [0, 0]
    assert train_together(store, broken, 2, die_after=1)[0] == 9
    assert train_together(store, broken, 2) == [0, 0]
    first, second, third = (read_result(store, run).history for run in (alone, unbroken, broken))
    assert second == third
    for epoch, other in zip(first, second, strict=True):
        assert epoch == pytest.approx(other, rel=1e-3)
