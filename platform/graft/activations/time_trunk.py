"""How long the trunk takes for one image at every depth, measured on the model in a moment."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graft.backbones.transfer_model import TransferModel, Trunk

PASSES, PASSES_S = 5, 0.5
"""How often a batch goes through at most, and after how many seconds not once more."""


@dataclass(frozen=True)
class DepthTiming:
    """What the trunk makes of one image at a freeze depth, and in which time."""

    shape: tuple[int, ...]
    """Shape of one image's activations."""
    seconds: float
    """Seconds of all stages up to this depth, for one image."""


def time_depths(model: TransferModel, crop: int, images: int = 4) -> list[DepthTiming]:
    """Time the depths 1, 2, ... up to the model's, on the model's device.

    A batch of blank images goes through once, and then up to `PASSES` times, for half a second or
    so: the fastest one counts, since other work on the machine only makes them slower.
    """
    device = next(model.network.parameters()).device
    x = torch.zeros(images, crop, crop, 3, device=device).permute(0, 3, 1, 2)
    stages = [Trunk(model.network, stage.steps) for stage in model.stages.stages[: model.depth]]
    _time(stages, x)
    passes: list[list[DepthTiming]] = []
    began = time.perf_counter()
    while not passes or (len(passes) < PASSES and time.perf_counter() - began < PASSES_S):
        passes.append(_time(stages, x))
    return min(passes, key=lambda timings: timings[-1].seconds if timings else 0.0)


def _time(stages: Sequence[Trunk], x: Tensor) -> list[DepthTiming]:
    """Return what each of some stages, one after another, makes of a batch: (B, 3, crop, crop)."""
    h, seconds, timings = x, 0.0, list[DepthTiming]()
    for stage in stages:
        _wait(x.device)
        before = time.perf_counter()
        h = stage(h)
        _wait(x.device)
        seconds += time.perf_counter() - before
        timings.append(DepthTiming(tuple(h.shape[1:]), seconds / len(x)))
    return timings


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
