"""Checkpoints inside an epoch: a run that is broken off there goes on as if it had not been."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from colours import colour_spec, new_run, train_together
from graft.data.importing import import_dataset
from graft.errors import Interrupted, RunFailed, StoreLost
from graft.spec import Checkpointing
from graft.store import Store
from graft.store.directory import Directory
from graft.training import checkpoint_clock
from graft.training.attempt import training_data
from graft.training.attempt_pointer import claim_attempt
from graft.training.checkpoint import latest_checkpoint, load_state, read_checkpoint
from graft.training.checkpoint_clock import CheckpointClock, Due
from graft.training.events import Note, Notice, Saved, Started, Untrained, Validated
from graft.training.loop import EpochDone, InsideEpoch, finetune
from graft.training.prepare_run import assemble, resolve
from graft.training.run_position import run_position
from graft.training.run_records import read_result, run_folder
from graft.training.step_checkpoint import latest_step_checkpoint

RESNET = {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer2"}
RECIPE = {
    "backbone": RESNET,
    "head": {"kind": "mlp", "hidden": [16], "dropout": 0.5},
    "train__epochs": 2,
    "train__optimizer": {"kind": "adamw", "lr": 0.002},
    "train__schedule": {"kind": "cosine"},
    "train__checkpoint": {"every": "4 steps"},
}
"""Trained BatchNorm, dropout and live views; of an epoch's five steps one has a checkpoint."""
MIXED = {
    "train__ema_decay": 0.9,
    "train__mixup_alpha": 0.2,
    "train__cutmix_alpha": 1.0,
    "train__accumulate": 2,
}
CACHED = {"cache": "on", "augment": {"kind": "standard", "views": 2}}
GRADUAL = {
    "cache": "on",
    "augment": {"kind": "standard", "views": 1},
    "backbone__freeze": "all",
    "train__unfreeze": [{"epoch": 2, "freeze": "layer2"}],
    "train__optimizer": {"kind": "sgd", "lr": 0.005},
}


def spec_of(**changes):
    backbone = {k.removeprefix("backbone__"): changes.pop(k) for k in [*changes] if "__freeze" in k}
    return colour_spec(**RECIPE | {"backbone": RESNET | backbone} | changes)


def step_keys(store, run):
    return [key for key, _ in store.scan(f"runs/{run}/") if "/steps/" in key]


def broken_off(store, train_alone, run):
    """Train until a checkpoint inside the second epoch is committed."""
    events = []

    def stop(event):
        events.append(event)
        if isinstance(event, Saved) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(store, run, stop)
    return events


def assert_same_end(store, *runs):
    first, second = (latest_checkpoint(store, run) for run in runs)
    assert first.history == second.history
    tails = [load_state(store, last) for last in (first, second)]
    assert tails[0].tail.keys() == tails[1].tail.keys()
    for part in ("tail", "average"):
        for name, value in getattr(tails[0], part).items():
            assert torch.equal(value, getattr(tails[1], part)[name]), name
    assert step_keys(store, runs[1]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(MIXED, marks=pytest.mark.slow),
        pytest.param(CACHED, marks=pytest.mark.slow),
        pytest.param(GRADUAL, marks=pytest.mark.slow),
    ],
    ids=["live", "mixed", "cached", "gradual"],
)
def test_a_run_broken_off_inside_an_epoch_goes_on_to_the_weights_of_an_unbroken_one(
    colour_store, train_alone, changes
):
    unbroken, broken = (new_run(colour_store, spec_of(**changes)) for _ in range(2))
    train_alone(colour_store, unbroken)
    broken_off(colour_store, train_alone, broken)
    marker, tensors = step_keys(colour_store, broken)  # of the newest one alone
    assert marker.endswith("attempt-1/steps/00000008/checkpoint.json")
    assert "/00000008/tensors-" in tensors
    position = run_position(colour_store, broken)
    assert str(position) == "in epoch 2 after step 3/5"
    started = train_alone(colour_store, broken)[0]
    assert isinstance(started, Started)
    assert (started.epoch, started.step, started.steps) == (1, 3, 5)
    assert_same_end(colour_store, unbroken, broken)
    assert run_position(colour_store, unbroken).steps is None


def test_a_damaged_one_is_left_out_with_a_word(colour_store, train_alone):
    unbroken, broken = (new_run(colour_store, spec_of()) for _ in range(2))
    train_alone(colour_store, unbroken)
    broken_off(colour_store, train_alone, broken)
    tensors = Path(colour_store.uri, step_keys(colour_store, broken)[1])
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    events = train_alone(colour_store, broken)
    (note,) = [
        event.text for event in events if isinstance(event, Note) and "left out" in event.text
    ]
    assert note.startswith("a checkpoint inside epoch 2 is left out: ")
    assert "is damaged: its SHA-256 is" in note
    started = next(event for event in events if isinstance(event, Started))
    assert (started.epoch, started.step) == (1, 0)
    assert_same_end(colour_store, unbroken, broken)


def test_sigterm_makes_a_checkpoint_before_the_end(colour_store, train_alone):
    changes = {"train__checkpoint": {"every": "epoch"}}
    unbroken, broken = (new_run(colour_store, spec_of(**changes)) for _ in range(2))
    events = train_alone(colour_store, unbroken)
    assert not [event for event in events if isinstance(event, Saved)]
    before = signal.getsignal(signal.SIGTERM)

    def end(event):
        if isinstance(event, Untrained):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"graft runs resume {broken}"):
        train_alone(colour_store, broken, end)
    assert signal.getsignal(signal.SIGTERM) is before
    inside = latest_step_checkpoint(colour_store, broken, 0)
    assert (inside.step, inside.workers, inside.freeze) == (1, 1, 3)
    assert train_alone(colour_store, broken)[0].step == 1
    assert_same_end(colour_store, unbroken, broken)
    results = [read_result(colour_store, run) for run in (unbroken, broken)]
    assert results[0].metrics["initial"] == results[1].metrics["initial"]


def test_an_overtaken_attempt_writes_none(colour_store, train_alone):
    run = new_run(colour_store, spec_of())

    def overtake(event):
        if isinstance(event, Untrained):
            claim_attempt(colour_store, run_folder(run))

    with pytest.raises(RunFailed, match="attempt 1 was overtaken by attempt 2"):
        train_alone(colour_store, run, overtake)
    assert not [key for key in step_keys(colour_store, run) if key.endswith("checkpoint.json")]


class NoSteps(Directory):
    """A directory that loses what is written inside epochs."""

    def create(self, key, data):
        if "/steps/" in key:
            raise StoreLost(f"{key}: no answer")
        super().create(key, data)


def test_a_store_that_fails_inside_an_epoch_ends_nothing(colour_store, train_alone):
    run = new_run(colour_store, spec_of(train__epochs=1))
    events = train_alone(Store(NoSteps(Path(colour_store.uri))), run)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("training goes on" in text and "no answer" in text for text in notes)
    assert read_result(colour_store, run)
    assert step_keys(colour_store, run) == []


def test_only_what_is_left_of_an_epoch_is_read(colour_store, alone):
    spec = resolve(colour_store, spec_of(train__epochs=1))
    clock = CheckpointClock(Checkpointing(every="3 steps"), alone, lambda: Notice.NONE)
    prepared = assemble(colour_store, spec)
    data = training_data(prepared, spec)
    events = finetune(prepared.model, data, spec.train, prepared.plan, alone, None, clock)
    inside = next(event for event in events if isinstance(event, InsideEpoch))
    state = inside.state
    assert (state.epoch, state.step, state.done, inside.steps) == (0, 3, 3, 5)
    events.close()

    again, read = assemble(colour_store, spec), training_data(prepared, spec)
    for event in finetune(again.model, read, spec.train, again.plan, alone, state):
        assert not isinstance(event, Untrained)
        if isinstance(event, EpochDone):
            break
    assert read.loader.rendered == 39 - 3 * 8 + 15  # what is left, and the validation images


def test_when_one_is_due(alone, monkeypatch):
    notice = Notice.NONE

    def clock(every):
        return CheckpointClock(Checkpointing(every=every), alone, lambda: notice)

    by_steps = clock("2 steps")
    assert [by_steps.due(step) for step in (3, 4, 5, 6)] == [Due.NO, Due.YES, Due.NO, Due.YES]
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_time = clock("10s")
    dues = []
    for step in range(1, 31):
        now += 1
        dues.append(by_time.due(step))
    assert [step for step, due in enumerate(dues, 1) if due is Due.YES] == [10, 20, 30]
    by_time.restart()
    notice = Notice.LEAVING
    now += checkpoint_clock.LEAVING_EVERY_S
    assert by_time.due(31) is Due.YES
    assert by_time.due(32) is Due.NO
    notice = Notice.STOP
    now += 1
    assert by_time.due(34) is Due.LAST
    assert by_time.told_to_stop()
    assert clock("epoch").due(1) is Due.LAST


def test_signals_are_heard_in_the_main_thread_alone():
    heard = []

    def ask():
        with checkpoint_clock.sigterm_stops() as notice:
            heard.append(notice())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert heard == [Notice.NONE]


@pytest.fixture(params=["directory", "s3"])
def any_store(request, colour_store, colour_images):
    """A store with the dataset, once a directory, once on S3."""
    if request.param == "directory":
        return colour_store
    store = Store.open(request.getfixturevalue("s3_store_uri"))
    import_dataset(store, str(colour_images), "colours", test_fraction=0)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_inside_an_epoch_a_run_goes_on_to_the_weights_of_an_unbroken_one(
    any_store, workers, cached
):
    spec = spec_of(scaling={"workers": workers}, **(CACHED if cached else {}))
    unbroken, broken = (new_run(any_store, spec) for _ in range(2))
    assert train_together(any_store, unbroken, workers) == [0] * workers
    codes = train_together(any_store, broken, workers, die_inside=2)
    assert codes[0] == -signal.SIGKILL
    inside = latest_step_checkpoint(any_store, broken, 1)
    assert (inside.step, inside.done, inside.workers) == (8, 3, workers)
    assert train_together(any_store, broken, workers) == [0] * workers
    assert_same_end(any_store, unbroken, broken)


@pytest.mark.slow
def test_of_two_workers_either_may_be_told_to_end(colour_store):
    spec = spec_of(scaling={"workers": 2}, train__epochs=3)
    unbroken, broken = (new_run(colour_store, spec) for _ in range(2))
    assert train_together(colour_store, unbroken, 2) == [0, 0]
    codes = train_together(colour_store, broken, 2, die_inside=1, send=signal.SIGTERM)
    assert codes == [Interrupted.exit_code] * 2
    assert train_together(colour_store, broken, 2) == [0, 0]
    assert_same_end(colour_store, unbroken, broken)


@pytest.mark.slow
def test_three_workers_sum_gradients_as_they_did(colour_store):
    """Each step's sums are in the order of the groups that DistributedDataParallel makes anew."""
    network = {"arch": "mobilenet_v3_small", "weights": "none", "freeze": "block8"}
    sizes = {"preprocess": {"resize": 64, "crop": 64}, "train__batch_size": 7}
    spec = spec_of(backbone=network, scaling={"workers": 3}, **sizes)
    unbroken, broken = (new_run(colour_store, spec) for _ in range(2))
    assert train_together(colour_store, unbroken, 3) == [0, 0, 0]
    assert train_together(colour_store, broken, 3, die_inside=1)[0] == -signal.SIGKILL
    assert train_together(colour_store, broken, 3) == [0, 0, 0]
    assert_same_end(colour_store, unbroken, broken)


def test_an_epochs_own_checkpoint_stays_what_it_was(colour_store, train_alone):
    """Releases without checkpoints inside epochs go on from it, and see no others."""
    run = new_run(colour_store, spec_of())
    events = broken_off(colour_store, train_alone, run)
    assert [event.epoch for event in events if isinstance(event, Validated)] == [1]
    last = latest_checkpoint(colour_store, run)
    assert (last.epoch, last.step, last.FORMAT) == (1, 5, 2)
    state = load_state(colour_store, read_checkpoint(colour_store, last.folder))
    assert (state.done, state.sums) == (0, [])
