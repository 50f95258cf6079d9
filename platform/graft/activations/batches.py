"""Batches of kept activations, in place of batches of decoded images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graft.activations.cache import Activations
from graft.data.loader import Share
from graft.data.manifest import Image


@dataclass(frozen=True)
class ActivationBatch:
    """What the tail starts from, for the images of one `Share`."""

    activations: Tensor
    """(b, ...) float32; maps are channels_last."""
    labels: NDArray[np.int64]
    """(b,)."""
    share: Share


def activation_batches(
    kept: Activations, images: Sequence[Image], shares: Sequence[Share]
) -> Iterator[ActivationBatch]:
    """Yield one batch per share, in order, as `ImageLoader.batches` does for images."""
    for share in shares:
        chosen = [images[i] for i in share.indices]
        labels = np.array([image.label for image in chosen], np.int64)
        yield ActivationBatch(kept.take([image.sha256 for image in chosen]), labels, share)
