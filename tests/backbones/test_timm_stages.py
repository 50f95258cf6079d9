"""timm's architectures: cut as torchvision's are, fitted with weights, trained and loaded."""

import functools
import http.server
import sys
import threading

import huggingface_hub.constants
import pytest
import timm
import timm.data
import torch
from safetensors.torch import save_file

from colours import colour_spec, draw_colours, new_run, train_together
from graft.backbones.describe import describe
from graft.backbones.published_weights import published, published_preprocess, weights_names
from graft.backbones.stage_map import stage_map
from graft.backbones.timm_stages import FAMILIES, timm_preprocess
from graft.backbones.transfer_model import build, check_input
from graft.backbones.trunk import load_model
from graft.backbones.verify_architecture import random_model, verify
from graft.backbones.weights import load_weights, resolve_weights
from graft.data.importing import import_dataset
from graft.errors import SpecError, WeightsError
from graft.registry import get_model
from graft.spec import Backbone, LinearHead, MLPHead
from graft.store import Store
from graft.training.run_records import read_result

STAGES = {
    "test_resnet": "stem layer1 layer2 layer3 layer4",
    "test_vit": "stem layer1 layer2 layer3 layer4 layer5 layer6 norm",
    "test_vit2": "stem layer1 layer2 layer3 layer4 layer5 layer6 layer7 layer8 norm",
    "test_vit3": "stem layer1 layer2 layer3 layer4 layer5 layer6 layer7 layer8 layer9 norm",
    "test_convnext": "stem stage1 stage2 stage3 stage4 norm",
    "test_efficientnet": "stem stage1 stage2 stage3 stage4 stage5 conv_last",
    "mobilenetv3_small_050": "stem stage1 stage2 stage3 stage4 stage5 stage6 hidden",
    "regnetx_002": "stem block1 block2 block3 block4",
    "swin_tiny_patch4_window7_224": "stem stage1 stage2 stage3 stage4 norm",
}
"""Small ones, of every family; of ViT with a class token, an average, and attention that pools."""


SWIN = pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)
"""timm has no small one."""
FAST = ("test_resnet", "test_vit", "test_efficientnet")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in STAGES],
)
def test_an_architecture_is_cut_rightly(name):
    torch.manual_seed(0)
    model = random_model(f"timm/{name}")
    checks = verify(model)
    assert [check for check in checks if not check.passed] == []
    assert " ".join(model.stages.names) == STAGES[name]
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert list(model.network.state_dict()) == list(theirs)


def test_every_family_is_tried():
    with torch.device("meta"):
        built = {type(timm.create_model(name)).__name__ for name in STAGES}
    assert built == set(FAMILIES)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_new_head_takes_the_last_layers_place(name):
    head = MLPHead(kind="mlp", hidden=(8,))
    backbone = Backbone(arch=f"timm/{name}", weights="none")
    model = build(backbone, head, classes=3, crop=64)
    logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3)
    with pytest.raises(SpecError, match="has no effect on timm's"):
        stage_map(f"timm/{name}", LinearHead(replaces="classifier"))


def test_an_architecture_is_described():
    description = describe("timm/test_vit")
    assert description.crop == 160
    assert [part.name for part in description.parts][:2] == ["stem", "layer1"]
    assert description.weights == ("test_vit.r160_in1k",)


# Errors.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"unknown architecture 'timm/resnet19'; the nearest are timm/resnet"),
        ("resnet18.a1_in1k", r"write arch: timm/resnet18 and weights: resnet18\.a1_in1k"),
        ("vgg11", r"timm/vgg11 is a VGG, which has no stage map; .* ConvNeXt, EfficientNet"),
        ("deit_tiny_distilled_patch16_224", r"is a VisionTransformerDistilled"),
    ],
)
def test_what_cannot_be_cut_is_an_error(name, message):
    with pytest.raises(SpecError, match=message):
        stage_map(f"timm/{name}", LinearHead())


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match=r"pip install 'graft-vision\[timm\]'"):
        stage_map("timm/resnet34", LinearHead())


@pytest.mark.parametrize(
    ("name", "crop", "message"),
    [
        ("test_vit", 100, "100 does not fit timm/test_vit, which needs a multiple of 16.* is 96"),
        ("swin_tiny_patch4_window7_224", 66, "needs a multiple of 4"),
    ],
)
def test_a_size_that_does_not_fit_is_an_error(name, crop, message):
    backbone = Backbone(arch=f"timm/{name}", weights="none")
    check_input(backbone, LinearHead(), 96)
    with pytest.raises(SpecError, match=message):
        check_input(backbone, LinearHead(), crop)


# Weights.


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"))


def serve_at(monkeypatch, address):
    """Do what HF_ENDPOINT does where it is set before the library is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that is served as Hugging Face's hub, and an empty cache."""
    folder = tmp_path / "hub"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        serve_at(monkeypatch, address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield folder
        server.shutdown()


def published_by_timm(name, path):
    """Write a network as timm publishes one, with 1000 classes, and return its tensors."""
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return state


def load(store, name, source, crop=64):
    backbone = Backbone(arch=f"timm/{name}", weights=str(source))
    weights = resolve_weights(store, backbone)
    model = build(backbone, LinearHead(), classes=3, crop=crop)
    load_weights(store, weights, model, keep_head=False)
    return weights, model.network.state_dict()


@pytest.mark.parametrize("source", ["imagenet", "test_resnet.r160_in1k"])
def test_published_weights_come_from_the_hub_and_then_from_the_store(store, hub, source):
    file = hub / "timm" / "test_resnet.r160_in1k" / "resolve" / "main" / "model.safetensors"
    theirs = published_by_timm("test_resnet", file)
    weights, state = load(store, "test_resnet", source)
    assert weights.source == "test_resnet.r160_in1k"
    assert weights.preprocess.crop == 160
    assert state["fc.weight"].shape[0] == 3
    assert all(torch.equal(state[name], theirs[name]) for name in state if name[:3] != "fc.")
    file.unlink()
    assert load(store, "test_resnet", source)[0] == weights


def test_published_weights_come_from_hugging_faces_cache(store, hub, tmp_path):
    folder = tmp_path / "cache" / "models--timm--test_resnet.r160_in1k"
    theirs = published_by_timm("test_resnet", folder / "snapshots" / "1" / "model.safetensors")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    _, state = load(store, "test_resnet", "imagenet")
    assert torch.equal(state["conv1.0.weight"], theirs["conv1.0.weight"])


def test_weights_that_cannot_be_had_say_what_to_fetch_and_where_to_put_it(store, monkeypatch):
    serve_at(monkeypatch, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(WeightsError) as caught:
        load(store, "resnet18", "imagenet")
    message = str(caught.value)
    assert "resnet18.a1_in1k's model.safetensors is not in the store and cannot be" in message
    assert (
        "fetch http://127.0.0.1:9/timm/resnet18.a1_in1k/resolve/main/model.safetensors elsewhere"
        in message
    )
    assert "hf download" in message
    assert "--set backbone.weights=PATH" in message


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("resnet18.a9_in1k", SpecError, r"none of timm/resnet18's .* 'resnet18\.a1_in1k'"),
        ("ResNet18_Weights.IMAGENET1K_V1", SpecError, "none of timm/resnet18's weights"),
        ("nowhere.pth", WeightsError, r"no file nowhere\.pth; expected .* timm's NAME\.TAG"),
    ],
)
def test_weights_that_do_not_exist(store, source, error, message):
    with pytest.raises(error, match=message):
        load(store, "resnet18", source)


def test_an_architecture_without_published_weights(store):
    with pytest.raises(SpecError, match="timm publishes none for timm/test_vit4"):
        load(store, "test_vit4", "imagenet")


@pytest.mark.parametrize("name", ["test_vit", SWIN])
def test_a_file_fits_another_size_of_image(store, tmp_path, name):
    theirs = published_by_timm(name, tmp_path / "w.safetensors")
    _, state = load(store, name, tmp_path / "w.safetensors")
    block = "layers.3.blocks.0" if name.startswith("swin") else "blocks.0"
    assert torch.equal(state[f"{block}.mlp.fc1.weight"], theirs[f"{block}.mlp.fc1.weight"])
    resized = f"{block}.attn.relative_position_bias_table" if "swin" in name else "pos_embed"
    assert state[resized].shape != theirs[resized].shape


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_file_of_another_architecture_is_listed(store, tmp_path, name):
    published_by_timm("mobilenetv3_small_050", tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit: .*missing .*unknown"):
        load(store, name, tmp_path / "w.safetensors")


@pytest.mark.slow  # timm has no small one
def test_a_swin_of_old_names_fits(store, tmp_path):
    """Microsoft's own files: downsampling ends a stage, and the head is one layer."""
    name = "swin_tiny_patch4_window7_224"
    theirs = published_by_timm(name, tmp_path / "today.safetensors")
    old = {}
    for key, value in theirs.items():
        for n in (1, 2, 3):
            key = key.replace(f"layers.{n}.downsample", f"layers.{n - 1}.downsample")
        old[key.replace("head.fc.", "head.")] = value
    save_file(old, tmp_path / "w.safetensors")
    _, state = load(store, name, tmp_path / "w.safetensors", crop=224)
    assert all(torch.equal(state[key], theirs[key]) for key in state if "head" not in key)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_images_are_prepared_as_for_timms_training(name):
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    resize, crop, _, normalize = timm.data.create_transform(**config).transforms
    ours = timm_preprocess(name)
    assert (ours.resize, (ours.crop, ours.crop)) == (resize.size, tuple(crop.size))
    assert ours.interpolation == resize.interpolation.value
    assert torch.allclose(
        torch.tensor([ours.mean, ours.std]), torch.stack([normalize.mean, normalize.std])
    )
    arch = f"timm/{name}"
    assert published_preprocess(published(arch)) == ours == timm_preprocess(weights_names(arch)[-1])


# The whole way.


@pytest.mark.slow  # two CPU seconds
def test_a_model_is_trained_registered_and_loaded_again(store, tmp_path):
    import_dataset(store, str(draw_colours(tmp_path / "images")), "colours", test_fraction=0)
    spec = colour_spec(
        backbone={"arch": "timm/test_vit", "weights": "none", "freeze": "layer2"},
        preprocess={"resize": 36, "crop": 32},
    )
    run = new_run(store, spec)
    assert train_together(store, run, workers=1) == [0]
    version = get_model(store, read_result(store, run).model)
    assert version.arch == "timm/test_vit"
    assert version.lineage.packages["timm"] == timm.__version__
    model = load_model(store, version)
    assert model.depth == 3
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
