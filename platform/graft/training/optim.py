"""From a recipe to torch optimisers, and the learning rate as a function of the step.

The schedules are our own: torch's `lr_scheduler` counts steps in an object, whose state would have
to be saved and kept in step. A function of the step number needs none, and a resumed run, a lane
and the range test ask it for any step.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from graft.backbones.stage_map import StageMap
from graft.spec import Cosine, OneCycle, Schedule, StepDecay, Train
from graft.training.training_plan import TrainingPlan


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], stages: StageMap, plan: TrainingPlan, train: Train
) -> torch.optim.Optimizer:
    """Return the optimiser of a tail's parameters, with a group for each rate and weight decay.

    A group's `rate` is its learning rate before the schedule. The optimiser is fused: on 2 CPU
    cores a step of ResNet-18 takes AdamW a quarter of the time.
    """
    settings = train.optimizer
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        rate = plan.rate(stages.stage_of(name))
        decay = settings.weight_decay if decays(name, parameter) else 0.0
        members.setdefault((rate, decay), []).append(parameter)
    groups = [
        {"params": group, "lr": rate, "rate": rate, "weight_decay": decay}
        for (rate, decay), group in members.items()
    ]
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to the weights of linear and convolutional layers.

    Norms, biases, class tokens, position embeddings and layer scales are left alone.
    """
    return name.endswith("weight") and parameter.ndim > 1


def load_slots(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    slots: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Give an optimiser the state that it, or one before it, had: tensors by parameter and slot.

    Parameters that were frozen until now have none. AdamW makes theirs at its next step; a fused
    step of SGD takes momentum for all of a group or for none, so theirs begins at zero, which
    gives the same first step.
    """
    if slots and isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    for name, tensors in slots.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            # A fused step walks through memory: what has a parameter's shape needs its layout.
            slot: torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape
            else value.to(parameter.device, copy=True)
            for slot, value in tensors.items()
        }


def rate_factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return what the learning rate is multiplied by at optimiser step `step` (from 0)."""
    steps = epochs * steps_per_epoch
    if isinstance(schedule, OneCycle):
        rise = schedule.peak * steps
        if step < rise:
            return _half_cosine(step / rise, schedule.start, 1.0)
        return _half_cosine((step - rise) / max(1.0, steps - 1 - rise), 1.0, schedule.final)
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if isinstance(schedule, StepDecay):
        return float(schedule.factor ** (step // steps_per_epoch // schedule.every))
    if isinstance(schedule, Cosine):
        return _half_cosine((step - warmup) / max(1.0, steps - warmup), 1.0, schedule.final)
    return 1.0


def _half_cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
