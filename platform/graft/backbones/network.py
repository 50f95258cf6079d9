"""torchvision's and timm's networks as Graft builds them: whole, or without memory, for shapes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from graft.backbones.timm import (
    PREFIX,
    timm_network,
    timm_patch,
    timm_preprocess,
    timm_weights_names,
)
from graft.errors import SpecError
from graft.spec import Preprocess

MAXVIT_GRID = 224
"""Five halvings end in windows of 7."""

LEFT_OUT = {
    "googlenet": "without its auxiliary heads, which serve training from scratch",
    "inception_v3": "without its auxiliary head, which serves training from scratch",
}
"""What of a published architecture Graft leaves out, and why."""


class OnMeta(TorchFunctionMode):
    """Networks made while it lasts have no memory for most of their parameters.

    ``torch.device("meta")`` would do more: RegNet's constructor computes with tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send what only allocates to the device without memory."""
        if func in (torch.empty, torch.zeros, torch.ones):
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def make_network(arch: str, classes: int, crop: int) -> nn.Module:
    """Make one of torchvision's classifiers, or of timm's, with random weights.

    Without auxiliary heads, which have no part in transfer; googlenet and inception_v3 change
    their input as torchvision does for its published weights; vit and maxvit are for `crop`.

    Raises:
        SpecError: the architecture cannot be built for images of that size.
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


def published(arch: str) -> Any:
    """Return torchvision's best weights for an architecture, as a member of its enum.

    Of timm's it is the name, which stands for the weights that timm would take.
    """
    if arch.startswith(PREFIX):
        return arch.removeprefix(PREFIX)
    return torchvision.models.get_model_weights(arch).DEFAULT


def weights_names(arch: str) -> tuple[str, ...]:
    """Return the names of published weights for an architecture, its best ones last.

    Names in torchvision's enum, or timm's NAME.TAG.
    """
    if arch.startswith(PREFIX):
        return timm_weights_names(arch)
    choices = torchvision.models.get_model_weights(arch)
    others = [member.name for member in choices if member is not choices.DEFAULT]
    return tuple(f"{choices.__name__}.{name}" for name in (*others, choices.DEFAULT.name))


def published_sizes(arch: str) -> str:
    """Return the sides of the images that an architecture is published for, in words."""
    if arch.startswith(PREFIX):
        return str(published_preprocess(published(arch)).crop)
    return f"at least {published(arch).meta['min_size'][0]}"


def published_preprocess(weights: Any) -> Preprocess:
    """Return the preprocessing that published weights were trained with.

    `weights` are a member of a torchvision enum, or timm's NAME or NAME.TAG.
    """
    if isinstance(weights, str):
        return timm_preprocess(weights)
    transforms = weights.transforms()
    return Preprocess(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _require_multiple(arch: str, crop: int, grid: int) -> None:
    if crop % grid:
        near = max(grid, round(crop / grid) * grid)
        raise SpecError(
            f"preprocess.crop: {crop} does not fit {arch}, which needs a multiple of {grid}; "
            f"the nearest is {near}"
        )
