"""Backbone weights: resolved, stored by their hash, fitted, refused."""

import os
import pickle
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
import torchvision
from safetensors.torch import save, save_file

from graft.backbones.published_weights import find_published
from graft.backbones.transfer_model import build
from graft.backbones.trunk import trunk_chain
from graft.backbones.weights import load_weights, resolve_weights
from graft.cluster.job_attempts import may_succeed_elsewhere
from graft.errors import InputError, NotFoundError, SpecError, WeightsError, WeightsLost
from graft.spec import Backbone, Contract, LinearHead
from graft.store import Store, sha256, sha256_file
from s3_endpoint import s3_endpoint

CONTRACT = Contract(max_side=64)


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def published():
    """A network as torchvision publishes one: 1000 classes."""
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1().state_dict()


def load(store, path, **changes):
    backbone = Backbone(arch="squeezenet1_1", weights=str(path), **changes)
    weights = resolve_weights(store, backbone)
    model = build(backbone, LinearHead(), classes=3, crop=64)
    load_weights(store, weights, model, keep_head=False)
    return weights, model


@pytest.mark.parametrize("kind", ["safetensors", "pth", "half"])
def test_a_file_is_stored_by_its_hash_and_fitted_but_for_the_head(store, published, tmp_path, kind):
    path = tmp_path / ("w.pth" if kind == "pth" else "w.safetensors")
    if kind == "pth":
        torch.save(published, path)
    else:
        half = kind == "half"
        save_file({k: v.half() if half else v.contiguous() for k, v in published.items()}, path)
    weights, model = load(store, path)
    assert weights.sha256 == sha256_file(path)
    state = model.network.state_dict()
    assert state["classifier.1.weight"].shape[0] == 3
    for name, value in published.items():
        if not name.startswith("classifier.1."):
            assert torch.allclose(state[name], value, atol=2e-3 if kind == "half" else 0)
    path.unlink()
    again = resolve_weights(
        store,
        Backbone(arch="squeezenet1_1", weights=str(path), weights_sha256=weights.sha256),
    )
    assert again == weights


@pytest.mark.parametrize(
    ("arch", "source", "crop", "mean"),
    [
        ("efficientnet_b7", "EfficientNet_B7_Weights.IMAGENET1K_V1", 600, 0.485),
        ("timm/vit_base_patch16_224", "augreg_in21k", 224, 0.5),
        ("timm/test_vit", "a/file.pth", 160, 0.5),
    ],
)
def test_a_pinned_digest_changes_no_preprocessing(store, tmp_path, arch, source, crop, mean):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    stored = resolve_weights(
        store, Backbone(arch="squeezenet1_1", weights=str(tmp_path / "w.safetensors"))
    )
    pinned = Backbone(arch=arch, weights=source, weights_sha256=stored.sha256)
    weights = resolve_weights(store, pinned)
    assert weights.sha256 == stored.sha256
    assert (weights.preprocess.crop, weights.preprocess.mean[0]) == (crop, mean)


def test_what_does_not_fit_is_listed(store, published, tmp_path):
    state = {name: value.contiguous() for name, value in published.items()}
    del state["features.0.bias"]
    state["features.3.squeeze.bias"] = torch.zeros(5)
    state["extra.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(store, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing features.0.bias (64,)" in message
    assert "features.3.squeeze.bias is (5,), expected (16,)" in message
    assert "unknown extra.weight" in message
    assert "classifier.1" not in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.encoder_q."])
def test_names_behind_a_prefix_are_explained(store, published, tmp_path, prefix):
    state = {prefix + name: value for name, value in published.items()}
    torch.save(state | {"module.queue": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load(store, tmp_path / "w.pth")
    assert f"is there behind '{prefix}'; save the tensors without it" in str(caught.value)


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda state: {"epoch": 3, "state_dict": state}, "one at checkpoint['state_dict']:"),
        (
            lambda state: {"student": state, "teacher": state},
            "one at checkpoint['student'] and at check",
        ),
        (
            lambda state: {"a": {"model": state}, "optimizer": {}},
            "one at checkpoint['a']['model']:",
        ),
    ],
)
def test_a_checkpoint_says_where_its_weights_are(store, tmp_path, wrap, place):
    torch.save(wrap({"features.0.weight": torch.zeros(1)}), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"save that alone") as caught:
        load(store, tmp_path / "w.pth")
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value > 0, "is torch.bool, expected floating-point"),
        (lambda value: value.to(torch.int8), "is torch.int8, expected floating-point"),
        (lambda value: value.to(torch.complex64), "is torch.complex64, expected floating-point"),
        (lambda value: value.double() * 1e300, "numbers that are not finite"),
        (lambda value: value.to_sparse(), "sparse, or on the meta device"),
        (lambda value: value.to("meta"), "sparse, or on the meta device"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(store, published, tmp_path, change, message):
    name = "features.0.weight"
    torch.save(published | {name: change(published[name])}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load(store, tmp_path / "w.pth")


def test_numbers_are_no_names_of_tensors(store, tmp_path):
    torch.save({0: torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="expected a mapping from parameter names"):
        load(store, tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["pipe.pth", "folder.pth", "nul\0.pth"])
def test_weights_are_read_from_regular_files(store, tmp_path, name):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match=r"no (regular )?file"):
        load(store, f"{tmp_path}/{name}")


def test_what_a_check_refuses_is_not_stored(store, published, tmp_path):
    torch.save(published, tmp_path / "w.pth")

    def refuse(state, source, preprocess):
        raise WeightsError(f"{source} does not fit {preprocess.crop}")

    with pytest.raises(WeightsError, match=r"w\.pth does not fit 224"):
        resolve_weights(store, Backbone(arch="squeezenet1_1", weights=f"{tmp_path}/w.pth"), refuse)
    assert list(store.scan("")) == []


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("a weights file ran code",))


@pytest.mark.parametrize("content", ["garbage", "text", "code", "nested", "empty"])
def test_only_plain_tensors_are_read(store, tmp_path, content):
    path = tmp_path / "w.pth"
    if content == "garbage":
        path.write_bytes(b"no weights at all")
    elif content == "text":
        path.write_bytes(b"hello world")  # no opcode of pickle's where one is read
    elif content == "code":
        torch.save({"a": Harmful()}, path, pickle_module=pickle)
    elif content == "nested":
        torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    else:
        path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"w\.pth"):
        load(store, path)
    assert list(store.scan("")) == []


def test_the_wrong_file_is_refused_by_its_hash(store, published, tmp_path):
    torch.save(published, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"has SHA-256 .* asks for 0000"):
        load(store, tmp_path / "w.pth", weights_sha256="0" * 64)
    assert list(store.scan("")) == []


@pytest.mark.slow
def test_weights_in_s3_are_read_at_the_very_key_that_is_named(tmp_path):
    keys = ("a#b?/1.safetensors", "a//1.safetensors")
    files = {key: save({"x": torch.tensor(place)}) for place, key in enumerate(keys)}
    directory = Store.open(str(tmp_path))
    with s3_endpoint(files):
        for key, data in files.items():
            spec = Backbone(arch="resnet18", weights=f"s3://bucket/{key}")
            assert resolve_weights(directory, spec).sha256 == sha256(data)
        for nothing in ("", "bucket/", "bucket/a/1.safetensors"):
            with pytest.raises((WeightsError, InputError), match=r"no file|found no bucket"):
                resolve_weights(directory, Backbone(arch="resnet18", weights=f"s3://{nothing}"))


def test_no_such_file_model_or_enum(store):
    with pytest.raises(WeightsError, match=r"no file .*nowhere\.pth; expected `imagenet`"):
        load(store, "nowhere.pth")
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        load(store, "model://nobody")
    with pytest.raises(SpecError, match=r"did you mean 'SqueezeNet1_1_Weights\.IMAGENET1K_V1'"):
        load(store, "SqueezeNet1_1_Weights.IMAGENET1K_V2")


def test_imagenet_is_taken_from_torchs_cache_and_then_from_the_store(
    store, published, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(published, checkpoints / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(WeightsError, match="does not begin with b8a52dc0"):
        load(store, "imagenet")
    assert list(store.scan("")) == []


def test_a_download_that_breaks_off_may_be_tried_again_and_one_that_is_refused_not(
    store, tmp_path, monkeypatch
):
    class Library(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/gone" else 200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half of it")

        def log_message(self, *_: object) -> None:
            pass

    published = find_published("squeezenet1_1", "imagenet")
    with HTTPServer(("127.0.0.1", 0), Library) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        for path, kind, reason in (
            ("weights", WeightsLost, r"IncompleteRead.*; try again later, or fetch"),
            ("gone", WeightsError, r"\(Not Found\); fetch"),
        ):
            url = f"http://127.0.0.1:{server.server_port}/{path}"
            there = replace(published, url=url, cached=None)
            monkeypatch.setattr(
                "graft.backbones.weights.find_published", lambda *_, there=there: there
            )
            with pytest.raises(WeightsError, match=reason) as error:
                load(store, "imagenet")
            assert type(error.value) is kind
            assert may_succeed_elsewhere(error.value) == (kind is WeightsLost)
        server.shutdown()


def test_the_trunk_digest_names_weights_contract_and_depth():
    def digest(seed=0, freeze=3, arch="resnet18", contract=CONTRACT, nudge=None):
        torch.manual_seed(seed)
        backbone = Backbone(arch=arch, weights="none", freeze=freeze)
        model = build(backbone, LinearHead(), classes=3, crop=64)
        if nudge:
            model.network.state_dict()[nudge].add_(1)
        return trunk_chain(model, contract).digests

    chain = digest()
    assert len(chain) == 4
    assert digest() == chain
    assert digest(freeze=2) == chain[:3]
    assert digest(freeze="all")[:4] == chain
    assert digest(nudge="layer4.0.conv1.weight") == chain  # trained, not named
    assert digest(nudge="layer2.0.conv1.weight")[:3] == chain[:3]
    for other in (
        digest(nudge="layer2.0.conv1.weight"),
        digest(nudge="bn1.running_mean"),
        digest(nudge="bn1.num_batches_tracked"),
        digest(seed=1),
        digest(arch="resnet34"),
        digest(contract=Contract(max_side=65)),
        digest(contract=Contract(max_side=64, crop=192)),
    ):
        assert other[3] != chain[3]


def test_a_trunk_that_ends_with_the_pooling_has_another_name():
    def digests(replaces):
        torch.manual_seed(0)
        backbone = Backbone(arch="squeezenet1_1", weights="none", freeze="all")
        model = build(backbone, LinearHead(replaces=replaces), classes=3, crop=64)
        return trunk_chain(model, CONTRACT).digests

    maps, flat = digests("last"), digests("classifier")
    assert maps[:-1] == flat[:-1]  # what is the same is computed once
    assert maps[-1] != flat[-1]
