"""Stage maps, freezing and the cut into trunk and tail, for every architecture."""

from typing import Literal, get_args

import pytest
import torch

from architectures import ARCHITECTURES, tier
from graft.backbones import verify_architecture as proof
from graft.backbones.describe import describe
from graft.backbones.heads import BUILDERS
from graft.backbones.make_network import LEFT_OUT
from graft.backbones.published_weights import published
from graft.backbones.stage_map import freeze_depth, stage_map
from graft.backbones.torchvision_stages import MAPS
from graft.backbones.transfer_model import build, build_on_meta, check_input
from graft.backbones.verify_architecture import random_model, small_crop, verify, verify_structure
from graft.errors import SpecError
from graft.spec import Backbone, Head, LinearHead, MLPHead, Section

CHECKS = ["owned once", "equal at every depth", "state dict", "frozen stays"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def make(arch="resnet18", head=None, crop=64, **backbone):
    return build(Backbone(arch=arch, weights="none", **backbone), head or LinearHead(), 3, crop)


def images(batch=2, side=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, side, side, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def test_every_classification_architecture_has_a_stage_map():
    assert sorted(MAPS) == sorted(ARCHITECTURES)


@pytest.mark.slow  # a quarter of a minute for all
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_tensor_and_layer_of_an_architecture_is_in_one_stage(arch):
    """`owned once`, without memory for weights: of all architectures on each commit."""
    model = build_on_meta(Backbone(arch=arch, weights="none"), LinearHead(), 5, small_crop(arch))
    owned = verify_structure(model)
    assert owned.passed, owned.found


@pytest.mark.parametrize("arch", [tier(arch) for arch in ARCHITECTURES])
def test_an_architecture_is_cut_rightly_at_every_depth(arch):
    torch.manual_seed(0)
    checks = verify(random_model(arch))
    assert [check.name for check in checks] == CHECKS
    assert [f"{check.name}: {check.found}" for check in checks if not check.passed] == []


@pytest.mark.parametrize("arch", [tier(arch) for arch in ARCHITECTURES])
def test_stages_add_up_to_the_published_size_and_cost(arch):
    meta = published(arch).meta
    parts = describe(arch).parts
    # torchvision counted Inception's auxiliary head; only GoogLeNet's is not in its number.
    auxiliary = 3_326_696 if arch == "inception_v3" else 0
    assert sum(part.parameters for part in parts) + auxiliary == meta["num_params"]
    assert sum(part.gflops for part in parts) == pytest.approx(meta["_ops"], abs=6e-4)


@pytest.mark.parametrize(
    "arch", ["resnet18", slow("densenet121"), slow("vit_b_32"), slow("swin_v2_t")]
)
def test_activations_have_the_shape_that_is_shown(arch):
    crop = small_crop(arch)
    model = make(arch, crop=crop, freeze=0).eval()
    with torch.no_grad():
        for depth, part in enumerate(describe(arch, crop).parts[:-1], 1):
            assert model.cut(depth).trunk(images(1, crop)).shape[1:] == part.shape


# What `verify` would say of a stage map that is wrong.


def test_a_step_that_is_missing_is_found(monkeypatch):
    whole = MAPS["resnet18"]()
    stages = dict(whole.stages, stem=("conv1", "bn1", "maxpool"))
    incomplete = type(whole)(stages, whole.head, whole.last)
    monkeypatch.setitem(MAPS, "resnet18", lambda: incomplete)
    failed = {check.name: check.found for check in verify(random_model("resnet18"))}
    assert failed["owned once"] == "relu is owned by 0 parts, expected 1"
    assert failed["equal at every depth"] == "at depth 0 the output differs from torchvision's"


def test_batch_norm_that_moves_is_found(monkeypatch):
    class Thawed(proof.TransferModel):
        def __call__(self, x):
            self.network.train()
            return self.network(x)

        def cut(self, depth):
            cut = super().cut(depth)
            return Thawed(cut.stages, cut.depth, cut.network, cut.trunk, cut.tail)

    model = random_model("resnet18")
    thawed = Thawed(model.stages, model.depth, model.network, model.trunk, model.tail)
    frozen = {check.name: check for check in verify(thawed)}["frozen stays"]
    assert not frozen.passed
    assert frozen.found == "bn1.running_mean is frozen and moved"


# Freezing.


def test_a_frozen_trunk_neither_drops_nor_counts_whoever_says_train():
    model = make("efficientnet_b0", freeze="stage4")
    model.network.train()
    model.trunk.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert torch.equal(model.trunk(images()), model.trunk(images()))
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not model.trunk(images()).requires_grad


@pytest.mark.parametrize("freeze", [0, 3, "all"])
def test_what_is_frozen_is_not_in_the_optimiser(freeze):
    model = make(freeze=freeze)
    trained = {name for name, _ in model.named_tail_parameters()}
    for name, parameter in model.network.named_parameters():
        assert parameter.requires_grad == (name in trained)
        assert (name in trained) == (model.stage_of(name) >= model.depth)


@pytest.mark.parametrize(
    ("freeze", "depth"),
    [(0, 0), (2, 2), (5, 5), ("all", 5), (-1, 4), (-5, 0), ("stem", 1), ("layer2", 3)],
)
def test_freeze_depth_by_number_name_and_all(freeze, depth):
    assert freeze_depth(freeze, stage_map("resnet18", LinearHead())) == depth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet19"}, "unknown architecture 'resnet19'; did you mean 'resnet18'"),
        ({"freeze": 6}, "6 is out of range for resnet18, which has 5 stages"),
        ({"freeze": -6}, "expected -5 to 5"),
        ({"freeze": "layer9"}, "no stage 'layer9'; did you mean 'layer4'"),
        ({"dropout": 0.1}, "dropout has no effect: resnet18 has no dropout layer that is"),
        ({"arch": "vit_b_16", "crop": 100}, r"crop: 100 does not fit vit_b_16.*nearest is 96"),
        ({"arch": "maxvit_t", "crop": 64}, r"crop: 64 does not fit maxvit_t.*nearest is 224"),
    ],
)
def test_what_an_architecture_lacks_is_an_error(change, message):
    with pytest.raises(SpecError, match=message):
        make(**change)


@pytest.mark.parametrize("arch", ["alexnet", slow("densenet121"), "inception_v3"])
def test_images_that_are_too_small_are_refused_before_anything_runs(arch):
    least = published(arch).meta["min_size"][0]
    backbone = Backbone(arch=arch, weights="none")
    check_input(backbone, LinearHead(), least)
    with pytest.raises(SpecError, match=f"too small for {arch}.*at least {least}"):
        check_input(backbone, LinearHead(), 8)


def test_what_is_left_out_is_said():
    assert set(LEFT_OUT) == {"googlenet", "inception_v3"}
    assert "auxiliary" in describe("googlenet").left_out
    assert describe("resnet18").left_out is None


# Heads.


class ThirdHead(Section):
    kind: Literal["third"] = "third"
    replaces: Literal["last", "classifier"] = "last"


@pytest.mark.parametrize("replaces", ["last", "classifier"])
def test_a_kind_of_head_that_nothing_builds_is_an_error(replaces):
    """It would otherwise train as linear: both replace the last layer."""
    with pytest.raises(SpecError, match=r"no builder makes 'third' heads; known: linear, mlp"):
        make("mobilenet_v3_small", ThirdHead(replaces=replaces))


def test_every_kind_of_head_has_a_builder():
    kinds = {head.model_fields["kind"].annotation.__args__[0] for head in get_args(Head.__origin__)}
    assert set(BUILDERS) == kinds


@pytest.mark.parametrize(
    "arch",
    [
        *("mobilenet_v3_small", "squeezenet1_1"),
        *(slow(arch) for arch in ("alexnet", "convnext_tiny", "maxvit_t", "vgg11")),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_may_replace_a_whole_classifier(arch, kind):
    head = (
        LinearHead(replaces="classifier")
        if kind == "linear"
        else MLPHead(kind="mlp", hidden=(8,), replaces="classifier")
    )
    crop = small_crop(arch)
    model = make(arch, head, crop)
    assert model.eval()(images(2, crop)).shape == (2, 3)
    assert {name.partition(".")[0] for name, _ in model.named_tail_parameters()} == {"classifier"}


def test_an_mlp_has_the_layers_that_are_asked_for():
    head = MLPHead(kind="mlp", hidden=(16, 8), activation="gelu", dropout=0.3)
    layers = list(make(head=head).network.fc)
    assert [type(layer).__name__ for layer in layers] == [
        *("Linear", "GELU", "Dropout"),
        *("Linear", "GELU", "Dropout"),
        "Linear",
    ]
    assert [layers[n].out_features for n in (0, 3, 6)] == [16, 8, 3]
    assert [layers[n].p for n in (2, 5)] == [0.3, 0.3]


def test_replacing_the_classifier_of_one_layer_is_an_error():
    with pytest.raises(SpecError, match="has no effect on resnet18"):
        stage_map("resnet18", LinearHead(replaces="classifier"))


def test_an_mlp_cannot_replace_a_convolution():
    with pytest.raises(SpecError, match=r"mlp cannot replace the last layer of squeezenet1_1"):
        stage_map("squeezenet1_1", MLPHead(kind="mlp"))


def test_dropout_is_set_in_the_tail():
    model = make("mobilenet_v3_small", freeze=0, dropout=0.0)
    layers = [m.p for m in model.network.modules() if isinstance(m, torch.nn.Dropout)]
    assert layers == [0.0]
