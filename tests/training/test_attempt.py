"""Attempts end to end in plain processes: equal numbers, resuming, fencing."""

import contextlib
import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from colours import colour_spec, new_run, train_together
from graft.backbones.transfer_model import Trunk
from graft.data.importing import import_dataset
from graft.errors import DataError, RunFailed, SpecError, StoreLost
from graft.registry import (
    ModelDraft,
    Mover,
    aliases,
    get_model,
    list_versions,
    promote,
    register,
)
from graft.store import Store
from graft.store.directory import Directory
from graft.training import run_recorder
from graft.training.attempt import run_attempt
from graft.training.attempt_pointer import claim_attempt
from graft.training.checkpoint import latest_checkpoint, load_state, read_checkpoint
from graft.training.confusion_matrix import read_confusion
from graft.training.events import Note, Started, Untrained, Validated
from graft.training.prepare_run import assemble, resolve
from graft.training.run_records import read_result, read_spec, run_folder, with_classes

DROPOUT = {
    "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer2"},
    "head": {"kind": "mlp", "hidden": [16], "dropout": 0.5},
    "train__epochs": 2,
}
"""Frozen and trained BatchNorm, and dropout, in one."""
MOBILENET = {
    "backbone": {"arch": "mobilenet_v3_small", "weights": "none", "freeze": "block8"},
    "preprocess": {"resize": 64, "crop": 64},
}
"""The same in a network that has its own dropout."""
ADAMW = {"train__optimizer": {"kind": "adamw", "lr": 0.002}}
LATER = [{"epoch": 2, "freeze": 0}]
CHAMPION = {"model": "colours", "alias": "champion"}
UNEVEN = {"backbone__dropout": 0.0, "train__batch_size": 19, "train__epochs": 2}
"""39 images in batches of 19: the last batch has 1, less than there are workers."""


def tail_of(store, run):
    version = get_model(store, read_result(store, run).model)
    return load(store.get(version.folder, version.tail))


def same(first, second):
    if first.keys() != second.keys():
        return False
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_learns_registers_and_tells_what_happened(colour_store, train_alone):
    spec = colour_spec(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": 2},
        train__epochs=4,
        register={"model": "colours", "alias": "candidate"},
    )
    run = new_run(colour_store, spec)
    events = train_alone(colour_store, run)
    result = read_result(colour_store, run)

    started = events[0]
    assert isinstance(started, Started)
    assert (started.attempt, started.epoch) == (1, 0)
    frozen = [stage.stage for stage in started.plan if stage.trained_from is None]
    assert frozen == ["stem", "layer1"]
    untrained = next(event for event in events if isinstance(event, Untrained))
    epochs = [event for event in events if isinstance(event, Validated)]
    assert [event.epoch for event in epochs] == [1, 2, 3, 4]
    best = max(epochs, key=lambda event: (event.val["accuracy"], -event.val["loss"]))
    assert result.epoch == best.epoch
    assert result.metrics["val"] == best.val
    assert result.metrics["val"]["accuracy"] > 0.6
    assert result.metrics["initial"] == untrained.val
    assert result.plan == started.plan
    assert result.trunk_digest == started.trunk_digest

    version = get_model(colour_store, "colours@candidate")
    assert version.ref == result.model == "colours@1"
    assert version.classes == ("blue", "green", "red")
    assert version.lineage.run == run
    assert version.lineage.dataset_version == read_spec(colour_store, run).dataset.version
    assert not any(name.startswith(("conv1.", "layer1.")) for name in tail_of(colour_store, run))
    names = [key for key, _ in colour_store.scan(f"runs/{run}/attempt-1/")]
    assert sum("/events/events.out.tfevents" in name for name in names) == 4
    assert sum("/metrics/" in name for name in names) == 4
    assert 1 <= sum(name.endswith("checkpoint.json") for name in names) <= 2


@pytest.fixture(scope="module")
def of_two_workers(imported_colours, tmp_path_factory):
    """A store, and a run in it by two workers of uneven shares."""
    folder = tmp_path_factory.mktemp("two") / "store"
    store = Store.open(str(shutil.copytree(imported_colours, folder)))
    run = new_run(store, colour_spec(scaling={"workers": 2}, **UNEVEN))
    assert train_together(store, run, 2) == [0, 0]
    return store, run


@pytest.mark.slow  # processes of its own: four CPU seconds
def test_two_workers_give_the_losses_of_one(of_two_workers, train_alone):
    store, together = of_two_workers
    alone = new_run(store, colour_spec(**UNEVEN))
    train_alone(store, alone)
    results = [read_result(store, run) for run in (alone, together)]
    for result in results:
        val = with_classes(store, result).metrics["val"]
        assert torch.tensor(val["confusion"]).sum() == 15
    for epoch, other in zip(*(result.history for result in results), strict=True):
        assert epoch == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_one_worker_in_two_passes_takes_the_very_steps_of_two(of_two_workers, numbers_of):
    store, together = of_two_workers
    in_passes = numbers_of(store, colour_spec(train__accumulate=2, **UNEVEN))
    assert same(in_passes.tail, tail_of(store, together))


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(colour_store, numbers_of):
    first, again, other = (
        numbers_of(colour_store, colour_spec(**DROPOUT | {"train__epochs": 1}, train__seed=seed))
        for seed in (0, 0, 1)
    )
    assert same(first.tail, again.tail)
    assert first.history == again.history
    assert not same(first.tail, other.tail)


@pytest.mark.parametrize(
    "changes",
    [
        DROPOUT | ADAMW,
        pytest.param(MOBILENET, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["adamw", "mobilenet", "squeezenet"],
)
def test_a_stopped_run_goes_on_to_the_weights_of_an_unbroken_one(
    colour_store, train_alone, changes
):
    spec = colour_spec(**changes)
    unbroken, broken = (new_run(colour_store, spec) for _ in range(2))
    train_alone(colour_store, unbroken)
    last_but_one = spec.train.epochs - 1

    def stop(event):
        if isinstance(event, Validated) and event.epoch == last_but_one:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(colour_store, broken, stop)
    assert read_result(colour_store, broken) is None
    assert train_alone(colour_store, broken)[0].epoch == last_but_one
    assert_equal_ends(colour_store, unbroken, broken)


def test_a_checkpoint_of_an_earlier_release_is_gone_on_with(colour_store, train_alone):
    """It has the matrices of all epochs in its marker."""
    run = new_run(colour_store, colour_spec(train__epochs=1))

    def stop(event):
        if isinstance(event, Validated):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(colour_store, run, stop)
    checkpoint = latest_checkpoint(colour_store, run)
    matrix = read_confusion(colour_store, checkpoint.folder, checkpoint.confusion)
    marker = checkpoint.model_dump(mode="json", exclude={"confusion"})
    marker["history"][0]["val"] |= matrix.by_class()
    colour_store.write(f"{checkpoint.folder}/checkpoint.json", json.dumps(marker).encode())
    train_alone(colour_store, run)
    result = read_result(colour_store, run)
    assert "confusion" not in result.metrics["val"]
    val = with_classes(colour_store, result).metrics["val"]
    assert val["confusion"] == matrix.counts.tolist()
    assert all(
        isinstance(x, float) for x in get_model(colour_store, result.model).metrics["val"].values()
    )


@pytest.mark.slow
def test_two_workers_killed_go_on_to_the_weights_of_an_unbroken_run(colour_store):
    changes = {"train__schedule": {"kind": "cosine"}, "scaling": {"workers": 2}}
    spec = colour_spec(**changes, **ADAMW, **MOBILENET)
    unbroken, broken = new_run(colour_store, spec), new_run(colour_store, spec)
    assert train_together(colour_store, unbroken, 2) == [0, 0]
    assert train_together(colour_store, broken, 2, die_after=2)[0] == 9
    assert latest_checkpoint(colour_store, broken).epoch == 2
    assert train_together(colour_store, broken, 2) == [0, 0]
    assert_equal_ends(colour_store, unbroken, broken)


def assert_equal_ends(store, unbroken, broken):
    first, second = (read_result(store, run) for run in (unbroken, broken))
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.history == second.history
    assert same(tail_of(store, unbroken), tail_of(store, broken))


def test_an_overtaken_attempt_publishes_nothing(colour_store, train_alone):
    run = new_run(colour_store, colour_spec(train__epochs=2))

    def overtake(event):
        if isinstance(event, Validated):
            claim_attempt(colour_store, run_folder(run))

    with pytest.raises(RunFailed, match="attempt 1 was overtaken by attempt 2"):
        train_alone(colour_store, run, overtake)
    assert read_result(colour_store, run) is None
    assert colour_store.children("models/") == []


def test_a_resume_moves_no_alias_back(colour_store, train_alone):
    run = new_run(colour_store, colour_spec(train__epochs=1, register=CHAMPION))
    train_alone(colour_store, run)
    first = get_model(colour_store, "colours@champion")
    draft = ModelDraft(**{name: getattr(first, name) for name in ModelDraft.model_fields})
    lineage = draft.lineage.model_copy(update={"run": "another"})
    draft = draft.model_copy(update={"lineage": lineage})
    promote(colour_store, register(colour_store, draft, b"", b"").ref, "champion")
    colour_store.delete(f"runs/{run}/result.json")  # as if it had died before it wrote that
    events = train_alone(colour_store, run)
    assert read_result(colour_store, run).model == "colours@1"
    assert aliases(colour_store, "colours") == {"champion": 2}
    said = [event.text for event in events if isinstance(event, Note)]
    assert any("champion stays at colours@2, which is newer" in text for text in said)


class NoAliases(Directory):
    """A directory that takes no alias."""

    def create(self, key, data):
        if "/aliases/" in key:
            raise StoreLost(f"{key}: no answer")
        super().create(key, data)


@pytest.mark.slow  # two CPU seconds
def test_an_alias_that_the_store_failed_is_moved_by_the_next_attempt(
    colour_store, train_alone, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    run = new_run(colour_store, colour_spec(train__epochs=1, register=CHAMPION))
    with pytest.raises(StoreLost, match="no answer"):
        train_alone(Store(NoAliases(Path(colour_store.uri))), run)
    assert read_result(colour_store, run) is None
    assert [row.version for row in list_versions(colour_store, "colours")] == [1]
    train_alone(colour_store, run)
    assert read_result(colour_store, run).model == "colours@1"
    assert aliases(colour_store, "colours") == {"champion": 1}


def test_an_attempt_overtaken_while_it_registers_moves_no_alias(colour_store, alone):
    run = new_run(colour_store, colour_spec(train__epochs=1, register=CHAMPION))

    def overtake(*_):
        claim_attempt(colour_store, run_folder(run))

    mover = Mover("ann", "graft train", consult=overtake)
    with pytest.raises(RunFailed, match="overtaken"):
        run_attempt(colour_store, run, alone, lambda event: None, 0.0, mover)
    assert aliases(colour_store, "colours") == {}


@pytest.mark.slow  # two CPU seconds
def test_an_overtaken_attempt_deletes_no_checkpoint_that_a_newer_one_has_chosen(
    colour_store, train_alone, monkeypatch
):
    """It is overtaken between its look at the pointer and its commit."""
    # So small a rate that the first epoch stays the best: no later checkpoint is needed for that.
    optimizer = {"kind": "sgd", "lr": 1e-12}
    run = new_run(colour_store, colour_spec(train__epochs=4, train__optimizer=optimizer))
    chosen = []
    look = run_recorder.check_attempt

    def look_and_sleep(store, folder, pointer):
        look(store, folder, pointer)
        last = latest_checkpoint(store, run)
        if pointer.attempt == 1 and not chosen and last and last.best:
            claim_attempt(store, folder)
            chosen.append(last)

    monkeypatch.setattr(run_recorder, "check_attempt", look_and_sleep)
    with pytest.raises(RunFailed, match="attempt 1 was overtaken by attempt 2"):
        train_alone(colour_store, run)
    (checkpoint,) = chosen
    assert load_state(colour_store, checkpoint).epoch == 2
    assert read_checkpoint(colour_store, checkpoint.best_folder)
    monkeypatch.undo()
    train_alone(colour_store, run)
    # Once all is published, only the last and the best are left.
    last = latest_checkpoint(colour_store, run)
    keys = [key for key, _ in colour_store.scan(f"runs/{run}/") if key.endswith("checkpoint.json")]
    expected = {f"{folder}/checkpoint.json" for folder in (last.folder, last.best_folder)}
    assert set(keys) == expected


def test_a_moved_trunk_voids_the_run(colour_store, train_alone):
    backbone = {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer2"}
    run = new_run(colour_store, colour_spec(backbone=backbone, train__epochs=1))

    def disturb(event):
        if isinstance(event, Validated):
            for trunk in [thing for thing in gc.get_objects() if type(thing) is Trunk]:
                for name, buffer in trunk.named_buffers():
                    buffer += name.endswith("running_mean")

    with pytest.raises(RunFailed, match=r"'bn1\.running_mean' of frozen stage 'stem' changed"):
        train_alone(colour_store, run, disturb)
    assert read_result(colour_store, run) is None


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"train__batch_size": 19}, True),  # of 39 images, one is left for the last batch
        ({"train__batch_size": 13}, False),
        ({"train__batch_size": 37, "scaling": {"workers": 2}}, True),  # two are left, for two
        ({"train__batch_size": 35, "scaling": {"workers": 2}}, False),
        ({"train__batch_size": 12, "train__accumulate": 12}, True),
        ({"train__batch_size": 19, "preprocess": {"resize": 80, "crop": 80}}, False),
        ({"train__batch_size": 19, "backbone__freeze": "all"}, False),
        ({"train__batch_size": 19, "backbone__freeze": "all", "train__unfreeze": LATER}, True),
    ],
)
def test_one_image_has_no_batch_statistics(colour_store, changes, refused):
    backbone = {"arch": "timm/test_resnet", "weights": "none", "freeze": 0}
    spec = colour_spec(**{"backbone": backbone} | changes)
    expected = pytest.raises(SpecError, match=r"choose another train\.batch_size")
    with expected if refused else contextlib.nullcontext():
        resolve(colour_store, spec)


def test_a_loss_that_is_not_finite_before_any_step_is_no_matter_of_rates(
    colour_store, train_alone, tmp_path
):
    state = assemble(colour_store, resolve(colour_store, colour_spec())).model.network.state_dict()
    huge = {name: (value * 1e30).contiguous() for name, value in state.items()}
    save_file(huge, tmp_path / "huge.safetensors")
    backbone = {
        "arch": "squeezenet1_1",
        "weights": str(tmp_path / "huge.safetensors"),
        "freeze": "all",
    }
    run = new_run(colour_store, colour_spec(backbone=backbone))
    with pytest.raises(RunFailed, match=r"before any step .* check backbone\.weights"):
        train_alone(colour_store, run)
    assert latest_checkpoint(colour_store, run) is None


def test_a_diverging_run_says_so(colour_store, train_alone):
    run = new_run(colour_store, colour_spec(train__optimizer={"kind": "sgd", "lr": 1e6}))
    with pytest.raises(RunFailed, match=r"training diverged.*train\.optimizer\.lr"):
        train_alone(colour_store, run)
    assert latest_checkpoint(colour_store, run) is None


def test_a_model_becomes_the_backbone_of_the_next(colour_store, train_alone):
    first = new_run(colour_store, colour_spec(train__epochs=1))
    train_alone(colour_store, first)
    spec = colour_spec(
        backbone={"arch": "squeezenet1_1", "weights": "model://colours", "freeze": "fire9"},
        preprocess=None,
        train__epochs=1,
        register={"model": "next"},
    )
    second = new_run(colour_store, spec)
    recorded = read_spec(colour_store, second)
    assert recorded.backbone.weights == "model://colours@1"
    assert recorded.preprocess.crop == 32
    train_alone(colour_store, second)
    version = get_model(colour_store, "next")
    assert version.lineage.weights == "model://colours@1"
    assert set(tail_of(colour_store, second)) == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scaling": {"workers": 40}, "train__batch_size": 64}, DataError, "39 training images"),
        ({"backbone__freeze": 12}, SpecError, "12 is out of range"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(colour_store, changes, error, message):
    with pytest.raises(error, match=message):
        resolve(colour_store, colour_spec(**changes))
    assert colour_store.children("runs/") == []


def test_training_says_what_import_has_shrunk_and_it_enlarges(colour_images, tmp_path, train_alone):
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(colour_images), "colours", max_side=16, test_fraction=0)
    events = train_alone(store, new_run(store, colour_spec(train__epochs=1)))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("is enlarged again; import with --max-side 72" in note for note in notes)
