"""Heads trained together give what each gives alone."""

import pytest
import torch

from colours import colour_spec, new_run
from graft.data.epoch_order import FULL, BlockShuffle
from graft.spec.train import Train
from graft.training.attempt import training_data
from graft.training.lanes import can_be_lane, train_lanes
from graft.training.loop import EpochDone, Untrained, finetune
from graft.training.prepare_run import assemble
from graft.training.run_records import read_spec
from graft.training.training_plan import make_training_plan

CPU = torch.device("cpu")
HEADS = {
    "convolution": {"backbone": {"arch": "squeezenet1_1", "weights": "none", "freeze": "all"}},
    "linear": {"backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}},
    "dropout and linear": {
        "backbone": {"arch": "mobilenet_v3_small", "weights": "none", "freeze": "all"},
        "preprocess": {"resize": 64, "crop": 64},
    },
    "mlp": {
        "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"},
        "head": {"kind": "mlp", "hidden": [16], "dropout": 0.5},
    },
}
RECIPES = {
    "sgd": {"train__clip_norm": 0.5},
    "adamw": {
        "train__optimizer": {"kind": "adamw"},
        "train__schedule": {"kind": "one-cycle"},
        "train__class_weights": "balanced",
        "train__label_smoothing": 0.1,
    },
}
BLOCKS = BlockShuffle(block_bytes=20_000, readers=6, buffer=2)
FAST = {("convolution", "sgd"), ("mlp", "adamw")}
CHANGES = [(1e-3, 1e-4), (3e-3, 0.1), (0.03, 0.0)]
"""Learning rate and weight decay of each lane."""


@pytest.mark.parametrize(
    ("head", "recipe"),
    [
        pytest.param(head, recipe, marks=[] if (head, recipe) in FAST else pytest.mark.slow)
        for head in HEADS
        for recipe in RECIPES
    ],
)
def test_a_lane_has_the_numbers_of_a_run_alone(colour_store, alone, head, recipe):
    spec = read_spec(
        colour_store,
        new_run(colour_store, colour_spec(**HEADS[head], **RECIPES[recipe], train__epochs=2)),
    )
    prepared = assemble(colour_store, spec)
    data = training_data(prepared, spec, BLOCKS if recipe == "adamw" else FULL)
    recipes = []
    for lr, decay in CHANGES:
        optimizer = spec.train.optimizer.model_copy(update={"lr": lr, "weight_decay": decay})
        train = spec.train.model_copy(update={"optimizer": optimizer})
        recipes.append((make_training_plan(prepared.model, spec.backbone, train), train))
    before = {n: p.detach().clone() for n, p in prepared.model.named_tail_parameters()}
    together = []
    for done in train_lanes(prepared.model, data, recipes, CPU):
        tails = [{name: value.clone() for name, value in tail.items()} for tail in done.tails]
        together.append((done, tails))
    assert all(torch.equal(p, before[n]) for n, p in prepared.model.named_tail_parameters())

    for lane, (plan, train) in enumerate(recipes):
        model = assemble(colour_store, spec).model
        for event in finetune(model, data, train, plan, alone, None):
            if isinstance(event, Untrained):
                assert together[0][0].val[lane]["loss"] == pytest.approx(event.val["loss"])
            elif isinstance(event, EpochDone):
                done, tails = together[event.epoch]
                assert done.train[lane] == pytest.approx(event.train, rel=1e-5)
                for metric in ("loss", "accuracy"):
                    assert done.val[lane][metric] == pytest.approx(event.val[metric], rel=1e-5)
                for name, value in event.state.tail.items():
                    torch.testing.assert_close(tails[lane][name], value, rtol=1e-4, atol=1e-6)


LANES_DO = {"epochs", "batch_size", "seed", "optimizer", "rates", "schedule", "label_smoothing"}
LANES_DO |= {"class_weights", "logit_adjustment", "clip_norm", "metric", "batch_norm", "shuffle"}
LANES_DO |= {"checkpoint"}  # which changes nothing of what is trained
NOT_A_LANE = {
    "accumulate": 2,
    "unfreeze": [{"epoch": 2, "freeze": -2}],
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "ema_decay": 0.9,
    "early_stopping": {"metric": "loss", "patience": 1},
    "precision": "bf16",
    "compile": True,
}


def test_lanes_do_each_key_of_the_recipe_or_refuse_it() -> None:
    """A new key has to be one or the other: what neither does would be ignored in a sweep."""
    assert set(Train.model_fields) == LANES_DO | set(NOT_A_LANE)
    assert can_be_lane(colour_spec().train)
    for name, value in NOT_A_LANE.items():
        train = Train.model_validate(colour_spec().train.model_dump() | {name: value})
        assert not can_be_lane(train), name
