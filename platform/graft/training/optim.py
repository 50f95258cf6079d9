"""From a spec to torch optimisers, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from graft.spec import SGD, AdamW, Constant, Cosine, Step


def make_optimizer(
    settings: SGD | AdamW, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the torch optimiser that a spec describes.

    Fused: on 2 CPU cores a step of ResNet-18 takes AdamW a quarter of the time.
    """
    if isinstance(settings, SGD):
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        parameters,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def rate_factor(
    schedule: Constant | Step | Cosine, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """Return what the learning rate is multiplied by at optimiser step `step` (from 0)."""
    if isinstance(schedule, Step):
        return float(schedule.factor ** (step // steps_per_epoch // schedule.every))
    if isinstance(schedule, Cosine):
        warmup = schedule.warmup_epochs * steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1.0, epochs * steps_per_epoch - warmup)
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    return 1.0
