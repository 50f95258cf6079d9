"""Checkpoints of trials under way: what a trial goes on from after its process has died."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors

from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.registry import get_model
from graft.spec import Checkpointing, Sweep, parse_job
from graft.store import Store
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.run_sweep import run_sweep
from graft.sweep.sweep_events import TrialAdvanced
from graft.sweep.sweep_plan import Throughput, Trial, trial_id
from graft.sweep.sweep_records import create_sweep, read_trials
from graft.sweep.trial import Keeping, Selection, TrialProcess, train_trial
from graft.sweep.trial_checkpoint import TrialKeeper, remove_trial_checkpoints
from graft.training.checkpoint_clock import CheckpointClock
from graft.training.events import Notice
from graft.training.prepare_run import resolve
from graft.training.run_records import read_result

GRAFT = Path(sys.executable).with_name("graft")
RECIPE = {
    "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer2"},
    "head": {"kind": "mlp", "hidden": [16], "dropout": 0.5},
    "train__epochs": 3,
    "train__optimizer": {"kind": "adamw", "lr": 0.002},
    "register": None,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    images = draw_colours(tmp_path / "images")
    import_dataset(store, str(images), "colours", test_fraction=0)
    return store


def kept(store: Store) -> list[str]:
    return [key for key, _ in store.scan("sweeps/sweep/under-way/")]


@pytest.mark.parametrize(
    ("every", "done"),
    [
        pytest.param("8 steps", 3, id="in"),
        pytest.param("5 steps", 0, id="after", marks=pytest.mark.slow),
    ],
)
def test_a_trial_goes_on_from_its_checkpoint_to_the_very_numbers(store, alone, every, done):
    """It is made inside the second epoch, or after it."""
    spec = resolve(store, colour_spec(**RECIPE))
    trial = Trial(number=7, id=trial_id(spec), changes={}, spec=spec, trunk=None)
    process = TrialProcess(store, "sweep", Selection("val.accuracy", "max", "best"), alone)
    *_, unbroken = train_trial(process, trial)

    said = []
    keeper = TrialKeeper(store, "sweep", trial, said.append)
    assert keeper.find() is None
    clock = CheckpointClock(Checkpointing(every=every), alone, lambda: Notice.NONE)

    def keep(snapshot):
        keeper.keep(snapshot)
        keeper.settle()
        if len(snapshot.progress.epochs) == (1 if done else 2):
            raise KeyboardInterrupt  # as if its process had died

    with pytest.raises(KeyboardInterrupt):
        list(train_trial(process, trial, keeping=Keeping(clock, keep)))
    assert len(kept(store)) == 2  # the newest, alone
    resumed = TrialKeeper(store, "sweep", trial, said.append).find()
    assert resumed.training.done == done
    assert len(resumed.progress.epochs) == (1 if done else 2)
    assert store.exists(resumed.progress.checkpoint)
    *_, again = train_trial(process, trial, resumed)
    assert again.progress.epochs == unbroken.progress.epochs
    assert again.progress.checkpoint == unbroken.progress.checkpoint
    for name, value in unbroken.training.tail.items():
        assert torch.equal(value, again.training.tail[name]), name

    other = trial.model_copy(update={"id": "another"})
    assert TrialKeeper(store, "sweep", other, said.append).find() is None
    assert said == []
    (state,) = [key for key in kept(store) if key.endswith(".safetensors")]
    Path(store.uri, state).write_bytes(b"")
    assert TrialKeeper(store, "sweep", trial, said.append).find() is None
    assert "left out" in said[0]
    remove_trial_checkpoints(store, "sweep", 7)
    assert kept(store) == []


@pytest.mark.slow  # two sweeps, and their Ray
@pytest.mark.parametrize(
    "workers",
    [
        pytest.param(1, id="in-an-actor"),
        pytest.param(2, id="nested", marks=pytest.mark.nightly),
    ],
)
def test_of_a_killed_sweep_a_trial_goes_on_from_its_checkpoint(store, ray_cluster, workers):
    """Killed once its only trial has a checkpoint."""
    recipe = {"train__epochs": 30, "train__checkpoint": {"every": "7 steps"}, "cache": "off"}
    base = colour_spec(**RECIPE | recipe | {"scaling": {"workers": workers}})
    document = {
        "kind": "sweep",
        "name": "colours",
        "base": base.model_dump(mode="json", by_alias=True),
        "space": {"train.optimizer.lr": {"choice": [0.002]}},
        "search": {"kind": "grid"},
        "scheduler": {"kind": "asha", "grace": 1} if workers == 1 else {"kind": "none"},
        "register": {"model": "colours", "weights": "best"},
    }
    speed = Throughput(gflops=100, images=1000)
    prepared = prepare_sweep(store, parse_job(document, "test", Sweep), speed)
    unbroken, broken = (create_sweep(store, *prepared) for _ in range(2))
    expected = run_sweep(store, unbroken, lambda event: None, contextlib.nullcontext)
    command = [GRAFT, "sweep", "--resume", broken, "--store", store.uri]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        place = f"sweeps/{broken}/under-way/" if workers == 1 else f"runs/{broken}-trial-1/"
        deadline = time.monotonic() + 120
        while not any(key.endswith("checkpoint.json") for key, _ in store.scan(place)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert read_trials(store, broken) == []
    store.delete(f"sweeps/{broken}/lease.json")  # which expires in half a minute
    events = []
    result = run_sweep(store, broken, events.append, contextlib.nullcontext)
    (first,), (second,) = expected.trials, result.trials
    assert first.epochs == second.epochs
    # The first of 30 epochs was finished before.
    assert next(e.epoch for e in events if isinstance(e, TrialAdvanced) and e.epoch) > 1
    assert first.state == second.state == "finished"
    assert list(store.scan(f"sweeps/{broken}/under-way/")) == []
    tails = [
        load_tensors(store.get(version.folder, version.tail))
        for version in (get_model(store, each.model) for each in (expected, result))
    ]
    assert all(torch.equal(value, tails[1][name]) for name, value in tails[0].items())
    if workers == 2:
        assert second.run == f"{broken}-trial-1"
        assert read_result(store, second.run).attempt == 2
