"""Exponential moving average of what is trained."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from graft.backbones.model import TransferModel


class TailAverage:
    """A moving average of the tail's parameters and buffers.

    At step t (from 1) min(decay, (1 + t) / (10 + t)) of the old is kept, as in TensorFlow's
    ExponentialMovingAverage: the first steps, far from the end, are soon forgotten.
    """

    def __init__(self, decay: float, start: Mapping[str, Tensor]):
        self._decay = decay
        self.tensors = dict(start)

    @torch.no_grad()
    def update(self, model: TransferModel, step: int) -> None:
        """Move towards the tail as it is after optimiser step `step` (from 1)."""
        tail = model.tail_state()
        for name in tail.keys() - self.tensors.keys():  # trained from now on
            self.tensors[name] = tail[name].clone()
        kept = min(self._decay, (1 + step) / (10 + step))
        floats = [name for name, value in tail.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floats], [tail[name] for name in floats], 1 - kept
        )
        for name in tail.keys() - set(floats):  # how often BatchNorm was updated
            self.tensors[name].copy_(tail[name])

    @contextlib.contextmanager
    def applied(self, model: TransferModel) -> Iterator[None]:
        """Put the average in the tail's place while the block lasts."""
        tail = model.tail_state()
        trained = {name: value.clone() for name, value in tail.items()}
        copy_into(tail, self.tensors)
        try:
            yield
        finally:
            copy_into(tail, trained)


@torch.no_grad()
def copy_into(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite tensors by name."""
    for name, value in values.items():
        own[name].copy_(value)
