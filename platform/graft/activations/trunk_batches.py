"""Batches of cached activations, in place of batches of decoded images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graft.activations.cache import Activations
from graft.data.index import Images
from graft.data.loader import BatchSlice


@dataclass(frozen=True)
class ActivationBatch:
    """What the tail starts from, for the images of one `BatchSlice`."""

    activations: Tensor
    """(b, ...) float32; maps are channels_last."""
    labels: NDArray[np.int64]
    """(b,)."""
    slice: BatchSlice


def activation_batches(
    activations: Activations, images: Images, slices: Sequence[BatchSlice]
) -> Iterator[ActivationBatch]:
    """Yield one batch per slice, in order, as `ImageLoader.batches` does for images."""
    for batch_slice in slices:
        batch = images.at(batch_slice.indices)
        labels = batch.labels.astype(np.int64)
        yield ActivationBatch(activations.take(batch.digests), labels, batch_slice)
