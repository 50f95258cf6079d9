"""Making torchvision's and timm's networks: with memory, or with shapes alone."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from graft.backbones.timm_stages import PREFIX, timm_network, timm_patch
from graft.errors import SpecError

MAXVIT_GRID = 224
"""MaxViT halves the image's side five times and then needs a multiple of 7."""

LEFT_OUT = {
    "googlenet": "without its auxiliary heads, which serve training from scratch",
    "inception_v3": "without its auxiliary head, which serves training from scratch",
}
"""What of a published architecture Graft leaves out, and why."""


class OnMeta(TorchFunctionMode):
    """While it is active, networks are made without memory for most of their parameters.

    ``torch.device("meta")`` would affect more: RegNet's constructor reads numbers from tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the functions that only allocate use the device without memory."""
        if func in (torch.empty, torch.zeros, torch.ones):
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def make_network(arch: str, classes: int, crop: int) -> nn.Module:
    """Make one of torchvision's classifiers, or of timm's, with random weights.

    Auxiliary heads are left out: they play no part in transfer. googlenet and inception_v3 change
    their input as torchvision does for its published weights; vit and maxvit are made for images
    of `crop` x `crop` pixels.

    Raises:
        SpecError: the architecture cannot be made for images of that size.
    """
    arguments: dict[str, Any] = {}
    if arch.startswith(PREFIX):
        if patch := timm_patch(arch):
            _require_multiple(arch, crop, patch)
        return timm_network(arch, classes, crop)
    if arch in LEFT_OUT:
        arguments = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif arch.startswith("vit_"):
        patch = int(arch.rpartition("_")[2])
        _require_multiple(arch, crop, patch)
        arguments = {"image_size": crop}
    elif arch.startswith("maxvit"):
        _require_multiple(arch, crop, MAXVIT_GRID)
        arguments = {"input_size": (crop, crop)}
    network: nn.Module = torchvision.models.get_model(
        arch, weights=None, num_classes=classes, **arguments
    )
    return network


def _require_multiple(arch: str, crop: int, grid: int) -> None:
    if crop % grid:
        near = max(grid, round(crop / grid) * grid)
        raise SpecError(
            f"preprocess.crop: {crop} does not fit {arch}, which needs a multiple of {grid}; "
            f"the nearest is {near}"
        )
