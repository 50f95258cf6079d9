"""What one image costs at every depth, measured on the model itself in a moment."""

import time
from dataclasses import dataclass

import torch

from graft.backbones.model import TransferModel, Trunk


@dataclass(frozen=True)
class DepthCost:
    """What lies behind a depth."""

    shape: tuple[int, ...]
    """Of one image's activations."""
    seconds: float
    """Of the stages before it, for one image."""


def measure(model: TransferModel, crop: int, images: int = 4) -> list[DepthCost]:
    """Return the cost of depths 1, 2, ... up to the model's, on its device.

    `images` blank ones go through twice: rough, and for most networks done in under a second.
    """
    device = next(model.network.parameters()).device
    x = torch.zeros(images, crop, crop, 3, device=device).permute(0, 3, 1, 2)
    stages = [Trunk(model.network, stage.steps) for stage in model.stages.stages[: model.depth]]
    costs: list[DepthCost] = []
    for warm in (False, True):
        h, spent = x, 0.0
        for stage in stages:
            _wait(device)
            before = time.perf_counter()
            h = stage(h)
            _wait(device)
            spent += time.perf_counter() - before
            if warm:
                costs.append(DepthCost(tuple(h.shape[1:]), spent / images))
    return costs


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
