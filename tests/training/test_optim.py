"""Learning rates as a function of stage and step, and what is decayed."""

import pytest

from graft.backbones.transfer_model import build
from graft.spec import (
    AdamW,
    Backbone,
    Constant,
    Cosine,
    DecayedRates,
    LinearHead,
    ListedRates,
    OneCycle,
    StageRate,
    StepDecay,
    Train,
)
from graft.training.optim import make_optimizer, rate_factor
from graft.training.training_plan import make_training_plan


def factors(schedule, epochs=4, steps=5):
    return [rate_factor(schedule, step, steps, epochs) for step in range(epochs * steps)]


def test_constant():
    assert set(factors(Constant())) == {1.0}


def test_warm_up_rises_in_equal_steps():
    by_step = factors(Constant(warmup_epochs=1))
    assert by_step[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert set(by_step[6:]) == {1.0}


def test_steps_fall_at_epochs():
    by_step = factors(StepDecay(kind="step", every=2, factor=0.1))
    assert by_step == pytest.approx([1.0] * 10 + [0.1] * 10)


def test_cosine_rises_and_falls():
    by_step = factors(Cosine(kind="cosine", warmup_epochs=1, final=0.1))
    assert by_step[:5] == sorted(by_step[:5])
    assert by_step[5] == 1.0
    assert by_step[5:] == sorted(by_step[5:], reverse=True)
    assert 0.1 < by_step[-1] < 0.12


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing():
    by_step = factors(OneCycle(kind="one-cycle", peak=0.3, start=0.04, final=0.001))
    top = by_step.index(max(by_step))
    assert (by_step[0], by_step[top], by_step[-1]) == pytest.approx((0.04, 1.0, 0.001))
    assert top == 6  # 0.3 of 20 steps
    assert by_step[: top + 1] == sorted(by_step[: top + 1])
    assert by_step[top:] == sorted(by_step[top:], reverse=True)


def rates(optimizer):
    """Return (rate, weight decay) -> number of parameters."""
    return {
        (group["rate"], group["weight_decay"]): sum(p.numel() for p in group["params"])
        for group in optimizer.param_groups
    }


def model_and_plan(train, arch="resnet18", freeze="layer2"):
    backbone = Backbone(arch=arch, weights="none", freeze=freeze)
    model = build(backbone, LinearHead(), classes=3, crop=64)
    return model, make_training_plan(model, backbone, train)


def test_norms_and_biases_are_not_decayed():
    train = Train(optimizer=AdamW(kind="adamw", lr=0.1, weight_decay=0.5))
    model, plan = model_and_plan(train)
    groups = rates(make_optimizer(dict(model.named_tail_parameters()), model.stages, plan, train))
    weights = [p for name, p in model.named_tail_parameters() if p.ndim > 1]
    others = [p for name, p in model.named_tail_parameters() if p.ndim == 1]
    assert groups == {
        (0.1, 0.5): sum(p.numel() for p in weights),
        (0.1, 0.0): sum(p.numel() for p in others),
    }


def test_no_embedding_is_decayed():
    train = Train(optimizer=AdamW(kind="adamw", lr=0.1, weight_decay=0.5))
    model, plan = model_and_plan(train, "timm/test_vit", 0)
    decayed = next(
        g
        for g in make_optimizer(
            dict(model.named_tail_parameters()), model.stages, plan, train
        ).param_groups
        if g["weight_decay"]
    )
    names = {id(p): name for name, p in model.named_tail_parameters()}
    undecayed = set(names.values()) - {names[id(p)] for p in decayed["params"]}
    assert {"cls_token", "pos_embed", "head.bias"} <= undecayed
    assert all("weight" in names[id(p)] for p in decayed["params"])


def test_rates_fall_from_the_head_towards_the_image():
    train = Train(rates=DecayedRates(kind="decay", factor=0.1, backbone=0.01))
    _, plan = model_and_plan(train)
    assert [(stage.stage, stage.lr) for stage in plan.stages] == [
        ("stem", None),
        ("layer1", None),
        ("layer2", None),
        ("layer3", pytest.approx(0.001)),
        ("layer4", pytest.approx(0.01)),
        ("head", 0.001),
    ]


def test_the_first_pattern_that_matches_counts():
    listed = (StageRate(match="layer4", lr=0.5), StageRate(match="layer*", lr=0.25))
    train = Train(rates=ListedRates(kind="list", stages=listed))
    model, plan = model_and_plan(train, freeze=0)
    assert [stage.lr for stage in plan.stages] == [0.001, 0.25, 0.25, 0.25, 0.5, 0.001]
    groups = rates(make_optimizer(dict(model.named_tail_parameters()), model.stages, plan, train))
    for rate, names in ((0.5, ("layer4",)), (0.25, ("layer1", "layer2", "layer3"))):
        expected = sum(p.numel() for n, p in model.named_tail_parameters() if n.startswith(names))
        assert groups[rate, 1e-4] + groups[rate, 0.0] == expected
