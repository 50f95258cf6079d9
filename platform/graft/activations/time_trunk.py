"""How long the trunk takes for one image at every depth, measured on the model in a moment."""

import time
from dataclasses import dataclass

import torch

from graft.backbones.transfer_model import TransferModel, Trunk


@dataclass(frozen=True)
class DepthTiming:
    """What the trunk makes of one image at a freeze depth, and in which time."""

    shape: tuple[int, ...]
    """Shape of one image's activations."""
    seconds: float
    """Seconds of all stages up to this depth, for one image."""


def time_depths(model: TransferModel, crop: int, images: int = 4) -> list[DepthTiming]:
    """Time the depths 1, 2, ... up to the model's, on the model's device.

    A batch of blank images goes through twice: rough, but for most networks done in under a
    second.
    """
    device = next(model.network.parameters()).device
    x = torch.zeros(images, crop, crop, 3, device=device).permute(0, 3, 1, 2)
    stages = [Trunk(model.network, stage.steps) for stage in model.stages.stages[: model.depth]]
    timings: list[DepthTiming] = []
    for warm in (False, True):
        h, seconds = x, 0.0
        for stage in stages:
            _wait(device)
            before = time.perf_counter()
            h = stage(h)
            _wait(device)
            seconds += time.perf_counter() - before
            if warm:
                timings.append(DepthTiming(tuple(h.shape[1:]), seconds / images))
    return timings


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
