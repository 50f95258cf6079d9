"""Checkpoints of trials under way: what a trial goes on from after its process has died."""

from pathlib import Path

import pytest
import torch

from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.spec import Checkpointing
from graft.store import Store
from graft.sweep.sweep_plan import Trial, trial_id
from graft.sweep.trial import Keeping, Selection, TrialProcess, train_trial
from graft.sweep.trial_checkpoint import TrialKeeper, remove_trial_checkpoints
from graft.training.checkpoint_clock import CheckpointClock
from graft.training.events import Notice
from graft.training.prepare_run import resolve

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


@pytest.mark.parametrize(("every", "done"), [("8 steps", 3), ("5 steps", 0)], ids=["in", "after"])
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
