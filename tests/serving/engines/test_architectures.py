"""Every architecture as an ONNX graph gives what torch computes, for batches of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import Dim
from torchvision.models import VisionTransformer

from architectures import ARCHITECTURES, QUICK, SMALLEST, size
from graft.backbones.stage_steps import embed
from graft.backbones.verify_architecture import random_model, small_crop
from graft.serving.engines.description import Network
from graft.serving.engines.forms import FORMS
from graft.serving.engines.graph import PixelNetwork
from graft.spec import Contract, LinearHead


def tier(arch: str) -> object:
    """The smallest of a family on each commit, unless it takes a minute; all at night."""
    often = arch in SMALLEST and size(arch) <= QUICK
    return pytest.param(arch, marks=pytest.mark.slow if often else pytest.mark.nightly)


TIMM = ("test_vit", "test_vit2", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet")


@pytest.mark.parametrize(
    "arch",
    [
        *map(tier, ARCHITECTURES),
        *(pytest.param(f"timm/{name}", marks=pytest.mark.slow) for name in TIMM),
    ],
)
def test_an_architecture_answers_alike_as_an_onnx_graph(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = random_model(arch).eval()
    crop = small_crop(arch)
    network = Network(
        model="m@1",
        arch=arch,
        head=LinearHead(),
        trunk_digest="0" * 64,
        classes=("a", "b", "c"),
        preprocessing=Contract(resize=crop, crop=crop, max_side=crop),
    )
    onnx = FORMS["onnx"]
    onnx.write(model, network, tmp_path / "model.onnx")
    logits = onnx.read(tmp_path / "model.onnx", network)
    expected = PixelNetwork(model, network.preprocessing)
    for count in (1, 3):
        images = torch.randint(0, 256, (count, crop, crop, 3), dtype=torch.uint8)
        with torch.inference_mode():
            recorded = expected(images).numpy()
        difference = np.abs(logits(images.numpy()) - recorded).max() / np.abs(recorded).max()
        assert difference < 1e-4


def test_tokens_of_a_vit_as_a_graph_have_batches_of_any_size() -> None:
    """The smallest ViT of torchvision has 86 million parameters: its graph is written at night."""

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = VisionTransformer(32, 16, 1, 1, hidden_dim=8, mlp_dim=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return embed(self.network, self.network.conv_proj(x))

    network = Tokens()
    images = torch.randn(2, 3, 32, 32)
    graph = torch.export.export(network, (images,), dynamic_shapes=({0: Dim("batch")},)).module()
    for batch in (images, torch.randn(3, 3, 32, 32)):
        torch.testing.assert_close(graph(batch), network(batch))
