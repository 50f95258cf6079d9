"""The workers of one attempt, as torch.distributed sees them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This worker among the others; behind several lies an initialised process group."""

    rank: int
    """From 0; the first worker's is 0."""
    size: int
    """Number of workers."""
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> "Ranks":
        """Return this process's place in the default process group."""
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @classmethod
    def alone(cls, device: torch.device) -> "Ranks":
        """Return this process as the only worker, which needs no process group."""
        return cls(0, 1, device)

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all workers."""
        for tensor in self._exchanged(tensors):
            dist.all_reduce(tensor)

    def copy_from_first(self, *tensors: Tensor) -> None:
        """Replace each tensor by worker 0's."""
        for tensor in self._exchanged(tensors):
            dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's value, by rank, on every worker."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Return worker 0's value on every worker."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def _exchanged(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the tensors that workers exchange: of a single one, none."""
        return tensors if self.size > 1 else ()
