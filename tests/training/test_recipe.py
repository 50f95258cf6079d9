"""What the recipe's keys do to a run, and that a resumed run has the unbroken one's numbers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch.nn import functional

from colours import colour_spec, new_run, train_together
from graft.data.loader import to_tensor
from graft.errors import SpecError
from graft.registry import get_model
from graft.spec import load_job
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.checkpoint import latest_checkpoint
from graft.training.events import Started, Validated
from graft.training.prepare_run import assemble, resolve
from graft.training.run_records import read_result, read_spec

JOBS = Path(__file__).parents[2] / "jobs"
NETWORK = {
    "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
    "head": {"kind": "mlp", "hidden": [16], "dropout": 0.5},
}
"""BatchNorm, and dropout."""
UNFROZEN = {
    **NETWORK,
    "train__epochs": 4,
    "train__unfreeze": [{"epoch": 2, "freeze": "layer3"}, {"epoch": 3, "freeze": "layer1"}],
    "train__rates": {"kind": "decay", "factor": 0.8},
}
ALIKE = {**UNFROZEN, "train__rates": {"kind": "uniform"}}
EVERYTHING = {
    **UNFROZEN,
    "train__optimizer": {"kind": "adamw", "lr": 0.002},
    "train__schedule": {"kind": "one-cycle"},
    "train__ema_decay": 0.9,
    "train__mixup_alpha": 0.4,
    "train__cutmix_alpha": 1.0,
    "train__label_smoothing": 0.1,
    "train__class_weights": "balanced",
    "train__clip_norm": 5.0,
}


def tail_of(store, run):
    version = get_model(store, read_result(store, run).model)
    return load(store.get(version.folder, version.tail))


def same(first, second):
    if first.keys() != second.keys():
        return False
    return all(torch.equal(value, second[name]) for name, value in first.items())


def stop_after(epoch):
    def post(event):
        if isinstance(event, Validated) and event.epoch == epoch:
            raise KeyboardInterrupt

    return post


@pytest.fixture
def trained(colour_store, train_alone):
    """Return a function that runs a spec with changes and returns its result and tail."""

    def train(**changes):
        run = new_run(colour_store, colour_spec(**changes))
        train_alone(colour_store, run)
        return read_result(colour_store, run), tail_of(colour_store, run)

    return train


@pytest.fixture
def tail_after(colour_store, numbers_of):
    """Return a function from a spec's changes to the tail after its epochs."""
    return lambda **changes: numbers_of(colour_store, colour_spec(**changes)).tail


@pytest.fixture(scope="module")
def plain(imported_colours, tmp_path_factory, numbers_of):
    """The numbers of two plain epochs."""
    folder = tmp_path_factory.mktemp("plain") / "store"
    store = Store.open(str(shutil.copytree(imported_colours, folder)))
    return numbers_of(store, colour_spec(train__epochs=2))


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        (UNFROZEN, (1, 2, 3)),
        (EVERYTHING, (2,)),
        (ALIKE, (2,)),
    ],
    ids=["before, between and after", "everything", "at one rate"],
)
@pytest.mark.slow
def test_unfreezing_interrupted_and_resumed_gives_the_weights_of_an_unbroken_run(
    colour_store, train_alone, changes, stops
):
    unbroken, broken = (new_run(colour_store, colour_spec(**changes)) for _ in range(2))
    train_alone(colour_store, unbroken)
    for epoch in stops:
        with pytest.raises(KeyboardInterrupt):
            train_alone(colour_store, broken, stop_after(epoch))
        assert latest_checkpoint(colour_store, broken).epoch == epoch
    train_alone(colour_store, broken)
    first, second = (read_result(colour_store, run) for run in (unbroken, broken))
    assert (first.attempt, second.attempt) == (1, len(stops) + 1)
    assert first.history == second.history
    assert first.metrics == second.metrics
    assert same(tail_of(colour_store, unbroken), tail_of(colour_store, broken))


@pytest.mark.slow
def test_three_workers_resume_after_unfreezing_with_the_same_order_of_sums(colour_store):
    changes = {
        **UNFROZEN,
        # Over a megabyte of gradients: several buckets, which DistributedDataParallel regroups.
        "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer1"},
        "train__unfreeze": [{"epoch": 2, "freeze": "stem"}],
        "train__batch_size": 13,
        "train__epochs": 3,
        "scaling": {"workers": 3},
    }
    spec = colour_spec(**changes)
    unbroken, broken = new_run(colour_store, spec), new_run(colour_store, spec)
    assert train_together(colour_store, unbroken, 3) == [0, 0, 0]
    assert train_together(colour_store, broken, 3, die_after=2)[0] == 9
    assert latest_checkpoint(colour_store, broken).epoch == 2
    assert train_together(colour_store, broken, 3) == [0, 0, 0]
    first, second = (read_result(colour_store, run) for run in (unbroken, broken))
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.history == second.history
    assert same(tail_of(colour_store, unbroken), tail_of(colour_store, broken))


def test_an_ordinary_loop_over_the_same_batches_gives_the_same_weights(colour_store, numbers_of):
    spec = colour_spec(backbone__dropout=0.0, train__epochs=2, augment={"kind": "none"})
    numbers = numbers_of(colour_store, spec)

    prepared = assemble(colour_store, read_spec(colour_store, numbers.run))
    model, data = prepared.model.network.train(), training_data(prepared, spec)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": others}], lr=0.005, momentum=0.9
    )
    for epoch in range(2):
        slices = data.training_slices(spec.train, epoch)
        for batch in data.loader.batches(data.train, slices, view=0):
            optimizer.zero_grad()
            images = to_tensor(batch.images, prepared.contract, torch.device("cpu"))
            loss = functional.cross_entropy(model(images), torch.from_numpy(batch.labels))
            loss.backward()
            optimizer.step()
    for name, value in numbers.tail.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_unfreezing_leaves_the_optimiser_of_what_was_training_alone(tail_after):
    squeezenet = {"arch": "squeezenet1_1", "weights": "none", "freeze": "all"}
    frozen = tail_after(backbone=squeezenet, train__epochs=2)
    thawed = tail_after(
        backbone=squeezenet,
        train__epochs=2,
        train__unfreeze=[{"epoch": 2, "freeze": "fire8"}],
        # So slow that float32 does not move: the head goes on as if nothing had happened.
        train__rates={"kind": "list", "stages": [{"match": "fire9", "lr": 1e-30}]},
    )
    assert frozen.keys() < thawed.keys()
    assert same(frozen, {name: thawed[name] for name in frozen})


def test_the_best_epoch_before_unfreezing_is_kept_with_its_own_trunk(colour_store, trained):
    result, tail = trained(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        train__epochs=3,
        # What thaws is destroyed.
        train__unfreeze=[{"epoch": 3, "freeze": 0}],
        train__rates={"kind": "list", "stages": [{"match": "*", "lr": 10.0}]},
        register={"model": "colours", "weights": "best"},
    )
    assert result.epoch < 3
    assert result.freeze == 5
    assert set(tail) == {"fc.weight", "fc.bias"}
    version = get_model(colour_store, "colours")
    assert (version.freeze, version.trunk_digest) == (5, result.trunk_digest)
    assert len(version.stages) == 5


def test_the_plan_is_told_before_training(colour_store, train_alone):
    spec = colour_spec(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        train__unfreeze=[{"epoch": 2, "freeze": "layer3"}, {"epoch": 3, "freeze": "layer2"}],
        train__optimizer={"kind": "sgd", "lr": 0.08},
        train__rates={"kind": "decay", "factor": 0.5},
    )
    events = []

    def stop(event):
        events.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(colour_store, new_run(colour_store, spec), stop)
    (started,) = events
    assert isinstance(started, Started)
    assert [(stage.stage, stage.trained_from, stage.lr) for stage in started.plan] == [
        ("stem", None, None),
        ("layer1", None, None),
        ("layer2", None, None),
        ("layer3", 3, 0.02),
        ("layer4", 2, 0.04),
        ("head", 1, 0.08),
    ]


@pytest.mark.slow
def test_a_decayed_rate_reaches_the_weights(tail_after):
    resnet = {"arch": "timm/test_resnet", "weights": "none", "freeze": "layer2"}
    name = "layer3.0.conv1.weight"
    still, moved = (
        tail_after(
            backbone=resnet,
            train__epochs=1,
            train__rates={"kind": "list", "stages": [{"match": "layer3", "lr": lr}]},
        )[name]
        for lr in (1e-30, 0.005)
    )
    assert not torch.equal(still, moved)


def test_early_stopping_ends_a_run_that_no_longer_gets_better(trained):
    result, _ = trained(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        train__epochs=9,
        train__optimizer={"kind": "sgd", "lr": 1e-30, "momentum": 0},
        train__early_stopping={"patience": 2},
    )
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]


def test_the_best_epoch_is_that_of_the_recipes_metric(trained):
    result, _ = trained(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        train__epochs=2,
        train__seed=1,
        train__optimizer={"kind": "sgd", "lr": 1.0},
        train__metric="val.loss",
    )
    first, second = result.history
    assert first["val_accuracy"] > second["val_accuracy"]
    assert first["val_loss"] > second["val_loss"]
    assert result.epoch == 2


@pytest.mark.slow
def test_clipping_bounds_what_a_step_moves(tail_after):
    start = {"train__epochs": 1, "backbone__freeze": "all"}
    still = {"kind": "sgd", "lr": 1e-30, "momentum": 0, "weight_decay": 0}
    before = tail_after(**start, train__optimizer=still)
    moved = {}
    for clip in (None, 0.01):
        optimizer = {"kind": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0}
        after = tail_after(**start, train__optimizer=optimizer, train__clip_norm=clip)
        moved[clip] = torch.cat([(after[n] - before[n]).flatten() for n in before]).norm().item()
    steps = 5  # 39 images by 8
    assert moved[0.01] <= 0.1 * 0.01 * steps * 1.001
    assert moved[None] > 2 * moved[0.01]


@pytest.mark.slow
def test_the_average_is_what_is_validated_and_registered(trained, plain):
    averaged, tail = trained(train__ema_decay=0.99, train__epochs=2)
    # The steps are the same ones; what is validated is not.
    assert [e["train_loss"] for e in averaged.history] == [
        train["loss"] for train, _ in plain.history
    ]
    assert averaged.history[-1]["val_loss"] != plain.history[-1][1]["loss"]
    assert not same(tail, plain.tail)


def test_bf16_gives_other_numbers_close_by(colour_store, numbers_of, plain):
    (metrics, _), *_ = numbers_of(
        colour_store, colour_spec(train__epochs=1, train__precision="bf16")
    ).history
    expected, _ = plain.history[0]
    assert metrics["loss"] != expected["loss"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=0.05)


def test_an_mlp_replaces_a_whole_classifier(colour_store, numbers_of):
    spec = colour_spec(
        backbone={"arch": "mobilenet_v3_small", "weights": "none", "freeze": "all"},
        preprocess={"resize": 64, "crop": 64},
        head={"kind": "mlp", "hidden": [16], "dropout": 0.2, "replaces": "classifier"},
        train__epochs=1,
    )
    numbers = numbers_of(colour_store, spec)
    assert latest_checkpoint(colour_store, numbers.run).freeze == 13
    assert {name: tuple(value.shape) for name, value in numbers.tail.items()} == {
        "classifier.0.weight": (16, 576),
        "classifier.0.bias": (16,),
        "classifier.3.weight": (3, 16),
        "classifier.3.bias": (3,),
    }


@pytest.mark.slow  # VGG16
def test_the_textbook_job_runs(colour_store, train_alone):
    smaller = (
        "dataset.name=colours",
        "backbone.weights=none",
        "preprocess={resize: 36, crop: 32}",
        "train.epochs=1",
        "loader.threads=1",
    )
    run = new_run(colour_store, load_job(JOBS / "dogs-vs-cats-vgg16.yaml", smaller))
    train_alone(colour_store, run)
    shapes = {name: tuple(value.shape) for name, value in tail_of(colour_store, run).items()}
    assert shapes == {
        "classifier.0.weight": (256, 25088),
        "classifier.0.bias": (256,),
        "classifier.3.weight": (3, 256),
        "classifier.3.bias": (3,),
    }
    assert read_result(colour_store, run).freeze == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train__unfreeze": [{"epoch": 2, "freeze": "fire88"}]},
            r"train\.unfreeze\.0\.freeze: squeezenet1_1 has no stage 'fire88'.*fire8",
        ),
        (
            {"train__unfreeze": [{"epoch": 2, "freeze": "all"}]},
            r"train\.unfreeze\.0\.freeze: all freezes 9 stages, and 9 were frozen before",
        ),
        (
            {"train__rates": {"kind": "decay", "factor": 0.5}},
            r"train\.rates has no effect: the head alone is trained",
        ),
        (
            {
                "backbone__freeze": 0,
                "train__rates": {"kind": "list", "stages": [{"match": "fyre*", "lr": 1e-3}]},
            },
            r"train\.rates\.stages\.0\.match: no stage of squeezenet1_1 matches 'fyre\*'",
        ),
        (
            {
                "backbone__freeze": "fire5",
                "train__rates": {"kind": "list", "stages": [{"match": "fire[2-4]", "lr": 1e-3}]},
            },
            r"'fire\[2-4\]' has no effect; what it matches stays frozen",
        ),
        (
            {
                "backbone__freeze": 0,
                "train__rates": {
                    "kind": "list",
                    "stages": [{"match": "fire*", "lr": 1e-3}, {"match": "fire9", "lr": 1e-2}],
                },
            },
            r"'fire9' has no effect; entries before it match first",
        ),
        (
            {"train__class_weights": {"blue": 1.0, "grean": 2.0, "red": 1.0}},
            r"every class of the dataset: missing green; unknown grean",
        ),
        ({"preprocess": {"resize": 16, "crop": 8}}, r"preprocess\.crop: 8 is too small"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_recorded(
    colour_store, changes, message
):
    with pytest.raises(SpecError, match=message):
        resolve(colour_store, colour_spec(**{"backbone__freeze": "all", **changes}))
    assert colour_store.children("runs/") == []
