"""Stage maps, freezing and the cut into trunk and tail."""

import pytest
import torch

from graft.backbones.model import Steps, Trunk, build
from graft.backbones.stages import freeze_depth, stage_map
from graft.errors import SpecError
from graft.spec import Backbone, LinearHead

ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "squeezenet1_1", "vgg16", "mobilenet_v3_small"]


def images(batch=2, side=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, side, side, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_trunk_then_tail_is_the_published_network_at_every_depth(arch):
    model = build(Backbone(arch=arch, weights="none"), LinearHead(), classes=7)
    model.network.eval()
    stages = model.stages.stages
    with torch.no_grad():
        expected = model.network(images())
        for depth in range(len(stages) + 1):
            trunk = Trunk(model.network, [s for stage in stages[:depth] for s in stage.steps])
            rest = [s for stage in stages[depth:] for s in stage.steps]
            tail = Steps(model.network, [*rest, *model.stages.head]).eval()
            assert torch.equal(tail(trunk(images())), expected)
            names = set(model.network.state_dict())
            assert {n for n in names if trunk.owns(n)} | {n for n in names if tail.owns(n)} == names


@pytest.mark.parametrize(("arch", "stages"), [("vgg16", 5), ("mobilenet_v3_small", 13)])
def test_a_head_may_replace_the_whole_classifier(arch, stages):
    head = LinearHead(replaces="classifier")
    model = build(Backbone(arch=arch, weights="none"), head, classes=7)
    assert model.depth == stages
    assert model.eval()(images()).shape == (2, 7)
    assert {name.partition(".")[0] for name, _ in model.named_tail_parameters()} == {"classifier"}


@pytest.mark.parametrize("freeze", [0, 3, "all"])
def test_frozen_stages_do_not_move_and_the_tail_gets_gradients(freeze):
    torch.manual_seed(0)
    backbone = Backbone(arch="resnet18", weights="none", freeze=freeze)
    model = build(backbone, LinearHead(), classes=3)
    frozen = {
        name: value.clone()
        for stage in range(model.depth)
        for name, value in model.stage_state(stage).items()
    }
    model.trunk.train()
    model.tail.train()
    optimizer = torch.optim.SGD([p for _, p in model.named_tail_parameters()], lr=0.1)
    for _ in range(2):
        loss = model(images(4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = model.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in frozen.items())
    for name, parameter in model.network.named_parameters():
        trained = name not in frozen
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None and bool(parameter.grad.isfinite().all())) == trained


def test_freeze_depth_by_number_name_and_all():
    stages = stage_map("resnet18", LinearHead())
    depth = {
        freeze: freeze_depth(Backbone(arch="resnet18", freeze=freeze), stages)
        for freeze in (0, 2, 5, "all", -1, -5, "stem", "layer2", "layer4")
    }
    expected = {0: 0, 2: 2, 5: 5, "all": 5, -1: 4, -5: 0, "stem": 1, "layer2": 3, "layer4": 5}
    assert depth == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet19"}, "unknown architecture 'resnet19'; did you mean 'resnet18'"),
        ({"freeze": 6}, "6 is out of range for resnet18, which has 5 stages"),
        ({"freeze": -6}, "expected -5 to 5"),
        ({"freeze": "layer9"}, "no stage 'layer9'; did you mean 'layer4'"),
        ({"dropout": 0.1}, "dropout has no effect: resnet18 has no dropout layer that is"),
    ],
)
def test_what_an_architecture_lacks_is_an_error(change, message):
    backbone = Backbone(**({"arch": "resnet18", "weights": "none"} | change))
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        build(backbone, LinearHead(), classes=3)


def test_replacing_the_classifier_of_one_layer_is_an_error():
    with pytest.raises(SpecError, match="has no effect on resnet18"):
        stage_map("resnet18", LinearHead(replaces="classifier"))


def test_dropout_is_set_in_the_tail():
    model = build(
        Backbone(arch="vgg16", weights="none", freeze=0, dropout=0.0), LinearHead(), classes=3
    )
    layers = [m.p for m in model.network.modules() if isinstance(m, torch.nn.Dropout)]
    assert layers == [0.0, 0.0]
