"""A version in parts computes what its whole network does, to the last bit."""

from pathlib import Path

import pytest
import torch

from architectures import ARCHITECTURES, QUICK, SMALLEST, size
from graft.backbones.parts import load_stage_parts, load_tail, part_bytes
from graft.backbones.trunk import load_model
from graft.backbones.verify_architecture import small_crop
from graft.errors import WeightsError
from graft.store import Store
from models import register_model


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def check_parts(store: Store, arch: str, freeze: int | str, crop: int = 64) -> None:
    version = register_model(store, arch=arch, freeze=freeze, crop=crop)
    model = load_model(store, version)
    parts = [*load_stage_parts(store, version, range(version.freeze)), load_tail(store, version)]
    x = torch.randn(2, 3, crop, crop).contiguous(memory_format=torch.channels_last)
    y = x
    with torch.inference_mode():
        for part in parts:
            y = part(y)
        assert torch.equal(y, model(x))
    whole = [*model.network.parameters(), *model.network.buffers()]
    assert sum(map(part_bytes, parts)) == sum(tensor.nbytes for tensor in whole)


@pytest.mark.parametrize("freeze", ["all", -2, 0])
def test_a_version_in_parts_computes_what_the_whole_does(store: Store, freeze: int | str) -> None:
    check_parts(store, "squeezenet1_1", freeze)


QUICK_FAMILIES = sorted(arch for arch in SMALLEST if size(arch) <= QUICK)


@pytest.mark.slow  # seconds for one of each small family
@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(arch, marks=() if arch in QUICK_FAMILIES else pytest.mark.nightly)
        for arch in ARCHITECTURES
    ],
)
def test_every_architecture_comes_in_parts(store: Store, arch: str) -> None:
    check_parts(store, arch, -2, small_crop(arch))


@pytest.mark.slow  # timm takes seconds to import
def test_tensors_that_only_the_constructor_makes_are_there(store: Store) -> None:
    """timm's Swin computes its masks, which are in no file."""
    pytest.importorskip("timm")
    check_parts(store, "timm/swin_tiny_patch4_window7_224", -2, 224)


def test_a_tail_of_another_network_is_refused(store: Store) -> None:
    version = register_model(store, freeze="all")
    with pytest.raises(WeightsError, match=r"ants-bees@1: (it has no|.*classifier)"):
        load_tail(store, version.model_copy(update={"arch": "resnet18", "freeze": 5}))
