"""What one image costs in each part of a network: FLOPs, and the activations at its end."""

import math
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.transfer_model import Steps, TransferModel


@dataclass(frozen=True)
class PartCost:
    """What one image costs in a stage, or in the head."""

    name: str
    gflops: float
    """Forward; a multiply-add counts one."""
    shape: tuple[int, ...]
    """Shape of one image's activations at the end of the part."""

    @property
    def numbers(self) -> int:
        """How many numbers one image's activations consist of."""
        return math.prod(self.shape)


@torch.no_grad()
def part_costs(model: TransferModel, crop: int) -> list[PartCost]:
    """Return the costs of every stage and of the head, for images of `crop` x `crop` pixels.

    `model` comes from `build_on_meta`: only shapes are computed. It is left in evaluation mode.
    """
    x = torch.empty(1, 3, crop, crop, device="meta")
    costs = []
    for part in model.stages.parts:
        steps = Steps(model.network, part.steps).eval()
        with FlopCounterMode(display=False) as counter:
            x = steps(x)
        costs.append(PartCost(part.name, counter.get_total_flops() / 2e9, tuple(x.shape[1:])))
    return costs
