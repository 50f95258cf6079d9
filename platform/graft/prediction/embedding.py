"""Embeddings: what a model's head is given, by which images are compared and found again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.transfer_model import TransferModel


@dataclass(frozen=True)
class Computed:
    """What a forward gives for B images."""

    logits: NDArray[np.float32]
    """(B, classes)."""
    embedding: NDArray[np.float32] | None
    """(B, features); None: it was not asked for."""


class HeadInput:
    """Keeps what a model's head was given in the last forward."""

    def __init__(self, model: TransferModel):
        head = model.network.get_submodule(model.stages.last)
        head.register_forward_pre_hook(self._keep)
        self._last: Tensor | None = None

    def _keep(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._last = arguments[0]

    def rows(self) -> NDArray[np.float32]:
        """Return it, (B, features); a map, (B, features, H, W), averaged over its places."""
        last = self._last
        if last is None:
            raise RuntimeError("the head has not computed yet")
        if last.ndim == 4:  # SqueezeNet's, whose last layer is a convolution
            last = last.mean((2, 3))
        rows: NDArray[np.float32] = last.float().cpu().numpy()
        return rows
