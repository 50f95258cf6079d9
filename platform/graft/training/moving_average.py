"""Exponential moving average of what is trained.

torch's `swa_utils` has the update, which is used here. Its `AveragedModel` does not fit: it copies
a module once, and the tail grows when stages are unfrozen; it has one decay, and ours rises.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from graft.backbones.transfer_model import TransferModel


class TailAverage:
    """A moving average of the tail's parameters and buffers, by torchvision's names.

    The decay at step t (from 1) is min(decay, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage, so that the first steps, far from the end, are soon forgotten.
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
        decay = min(self._decay, (1 + step) / (10 + step))
        floats = [name for name, value in tail.items() if value.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([self.tensors[name] for name in floats], [tail[name] for name in floats], step)
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
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite those of `tensors` that `values` has, by name.

    Raises:
        KeyError: a value's name is not among the tensors'.
    """
    for name, value in values.items():
        tensors[name].copy_(value)
