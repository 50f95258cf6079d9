"""What a key's name says, and what it leaves out."""

import re
from importlib.metadata import version

import pytest
import torch

from graft.activations.key import Key, backend_name, view_name
from graft.spec import NoAugment, StandardAugment


def test_view_0_is_the_same_whatever_the_augmentation() -> None:
    assert view_name(StandardAugment(seed=3), 0) == "v0"
    assert view_name(NoAugment(kind="none"), 4) == "v0"


def test_a_view_is_named_by_what_decides_its_pixels() -> None:
    first = view_name(StandardAugment(), 2)
    assert re.fullmatch("v2-[0-9a-f]{8}", first)
    assert view_name(StandardAugment(views=7), 2) == first
    others = [
        StandardAugment(seed=1),
        StandardAugment(scale=(0.1, 1.0)),
        StandardAugment(ratio=(1.0, 1.0)),
        StandardAugment(flip=0.0),
    ]
    assert len({first, *(view_name(other, 2) for other in others)}) == 5


def test_backends_are_told_apart() -> None:
    cpu = backend_name(torch.device("cpu"), "resnet18")
    assert re.fullmatch(r"torch\d+\.\d+-pillow\d+\.\d+-cpu", cpu)
    assert backend_name("cuda:1", "resnet18") == backend_name("cuda", "vgg16") != cpu
    of_timm = backend_name("cpu", "timm/test_resnet")
    assert of_timm == cpu.replace("-cpu", f"-timm{version('timm')}-cpu")
    assert Key.parse("ab" * 32, f"v0-float32-{of_timm}") == Key("ab" * 32, "v0", "float32", of_timm)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_key_is_read_back_from_its_folder(dtype: str) -> None:
    key = Key("ab" * 32, view_name(StandardAugment(), 1), dtype, "torch2.15-cpu")  # type: ignore[arg-type]
    _, trunk, kind = key.folder.split("/")
    assert Key.parse(trunk, kind) == key
    assert Key.parse(trunk, "claims") is None
