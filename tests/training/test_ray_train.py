"""Runs on a real local Ray: workers that die or hang, resources that are not there, S3."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from colours import colour_spec, new_run, train_together
from graft.data.importing import import_dataset
from graft.errors import Interrupted, ResourceError, RunFailed
from graft.registry import get_model
from graft.store import Store
from graft.training.checkpoint import latest_checkpoint
from graft.training.events import Note, Saved, Stalled, Started, Stepped, Validated
from graft.training.ray_train import run_finetune
from graft.training.run_position import run_position
from graft.training.run_records import read_result
from graft.training.stalls import read_stalls

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def tail_of(store, run):
    version = get_model(store, read_result(store, run).model)
    return load(store.get(version.folder, version.tail))


def processes_of_ours(title):
    """Return the pids of processes that descend from this one and have `title` in their name."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    pids = []
    for pid, name in titles.items():
        ancestor = pid
        while ancestor > 1 and ancestor != os.getpid():
            ancestor = parents.get(ancestor, 0)
        if title in name and ancestor == os.getpid():
            pids.append(pid)
    return pids


@pytest.mark.nightly  # on every commit e2e's `worker` shows it
def test_a_dead_worker_is_started_again_and_ends_where_the_unbroken_run_does(colour_store):
    spec = colour_spec(scaling={"workers": 2}, backbone__freeze="fire6", train__epochs=5)
    unbroken, broken = new_run(colour_store, spec), new_run(colour_store, spec)
    assert train_together(colour_store, unbroken, 2) == [0, 0]

    killed, attempts = [], []

    def kill_one(event):
        if isinstance(event, Started):
            attempts.append((event.attempt, event.epoch))
        if isinstance(event, Validated) and not killed:
            killed.append(processes_of_ours("ray::RayTrainWorker")[-1])
            os.kill(killed[0], signal.SIGKILL)

    result = run_finetune(colour_store, broken, kill_one)
    assert killed
    assert attempts[0] == (1, 0)
    assert attempts[1][1] >= 1
    assert result.attempt == 2
    first, second = tail_of(colour_store, unbroken), tail_of(colour_store, broken)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_worker_killed_inside_an_epoch_loses_one_checkpoint(colour_store):
    """Of small batches, so that the run is not over before the driver hears of the checkpoint."""
    recipe = {"train__epochs": 3, "train__batch_size": 2, "backbone__freeze": "fire6"}
    spec = colour_spec(scaling={"workers": 2}, train__checkpoint={"every": "5 steps"}, **recipe)
    unbroken, broken = new_run(colour_store, spec), new_run(colour_store, spec)
    assert train_together(colour_store, unbroken, 2) == [0, 0]
    killed, attempts = [], []

    def kill_one(event):
        if isinstance(event, Started):
            attempts.append((event.attempt, event.epoch, event.step))
        if isinstance(event, Saved) and not killed:
            killed.append(processes_of_ours("ray::RayTrainWorker")[-1])
            os.kill(killed[0], signal.SIGKILL)

    assert run_finetune(colour_store, broken, kill_one).attempt == 2
    assert attempts[0] == (1, 0, 0)
    assert attempts[1] > (2, 0, 0)
    assert read_result(colour_store, unbroken).history == read_result(colour_store, broken).history
    first, second = tail_of(colour_store, unbroken), tail_of(colour_store, broken)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


SLOW_STEPS = {
    "preprocess": {"resize": 448, "crop": 448},
    "train__batch_size": 1,
    "train__epochs": 50,
    "backbone__freeze": 0,
}
"""An epoch of 39 steps, of some tenths of a second each."""


def test_ctrl_c_inside_an_epoch_makes_a_checkpoint_first(colour_store):
    run = new_run(colour_store, colour_spec(**SLOW_STEPS))
    events = []

    def interrupt(event):
        events.append(event)
        if isinstance(event, Stepped) and not any(isinstance(e, Stepped) for e in events[:-1]):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"graft runs resume {run}"):
        run_finetune(colour_store, run, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after a checkpoint; once more stops at once" in [
        event.text for event in events if isinstance(event, Note)
    ]
    (saved,) = [event for event in events if isinstance(event, Saved)]
    position = run_position(colour_store, run)
    assert (position.epochs + 1, position.step) == (saved.epoch, saved.step)
    assert latest_checkpoint(colour_store, run) is None or saved.epoch > 1


def test_ctrl_c_before_any_step_ends_the_run_at_once(colour_store):
    run = new_run(colour_store, colour_spec(**SLOW_STEPS))

    def interrupt(event):
        if isinstance(event, Started):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run_finetune(colour_store, run, interrupt)
    assert run_position(colour_store, run) is None


def test_where_its_pod_is_told_to_end_a_run_makes_checkpoints_all_the_time(colour_store):
    slower = {"preprocess": {"resize": 800, "crop": 800}, "train__epochs": 2}
    run = new_run(colour_store, colour_spec(**SLOW_STEPS | slower))
    saved = []

    def interrupt(event):
        if isinstance(event, Saved):
            saved.append(event)
            if len(saved) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted):
            run_finetune(colour_store, run, interrupt, told_to_end=lambda: True)
    finally:
        signal.signal(signal.SIGTERM, before)
    first, last = saved
    assert (first.epoch, first.step) < (last.epoch, last.step)


@pytest.mark.slow
def test_a_run_without_progress_fails(colour_store):
    # No step is as fast.
    scaling = {"stall_timeout_s": 0.01, "max_restarts": 0}
    spec = colour_spec(scaling=scaling, train__batch_size=39, train__epochs=200)
    run = new_run(colour_store, spec)
    events, cleaners = [], []

    def show(event):
        events.append(event)
        # It would wait for a dashboard, which a Ray of ours has not, at the end of each run.
        cleaners.extend(processes_of_ours("ray::PlacementGroupCleaner"))

    with pytest.raises(RunFailed, match=f"gave up after 0 restarts.*graft runs resume {run}"):
        run_finetune(colour_store, run, show)
    assert events
    assert not cleaners
    assert events.count(Stalled(rank=0, seconds=0.01)) == 1
    (stall,) = read_stalls(colour_store, run)
    assert (stall.attempt, stall.rank) == (1, 0)
    assert "Thread 0x" in stall.stacks
    assert 'attempt.py", line' in stall.stacks
    assert read_result(colour_store, run) is None


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"workers": 1, "gpus_per_worker": 1}, r"asks for 1 GPUs .* the cluster has 0"),
        ({"workers": 1, "cpus_per_worker": 999}, r"asks for 999 CPUs"),
    ],
)
def test_more_than_the_cluster_has_is_said_at_once(colour_store, scaling, message):
    run = new_run(colour_store, colour_spec(scaling=scaling))
    with pytest.raises(ResourceError, match=message):
        run_finetune(colour_store, run, lambda event: None)


@pytest.mark.nightly  # on every commit README's main job shows it
def test_a_run_on_s3(colour_images, s3_store_uri):
    store = Store.open(s3_store_uri)
    import_dataset(store, str(colour_images), "colours", test_fraction=0)
    run = new_run(store, colour_spec(train__epochs=1, backbone__freeze="all"))
    result = run_finetune(store, run, lambda event: None)
    assert result.model == "colours@1"
    assert read_result(store, run) == result
    assert get_model(store, "colours").trunk_digest == result.trunk_digest
