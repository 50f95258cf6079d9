"""From a dataset version to batches: who reads which image when, and the threads that do.

Who reads which image in which order is a pure function, see `epoch_order`; threads and the memory
for decoded images only change how fast a batch comes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from graft.data.image import decode
from graft.data.index import Image, Images
from graft.data.manifest import DatasetVersion
from graft.data.read_ahead import BLOCK_BYTES, ReadAhead
from graft.data.views import render
from graft.spec import Loader, NoAugment, Preprocess, StandardAugment


@dataclass(frozen=True)
class BatchSlice:
    """One worker's part of one global batch."""

    indices: NDArray[np.int64]
    """(b,): positions in the list of images."""
    weights: NDArray[np.float32]
    """(b,): 1, or 0 for an image that only fills an otherwise empty slice."""
    total: int
    """Images in the global batch."""


@dataclass(frozen=True)
class Batch:
    """Decoded images of one `BatchSlice`."""

    images: NDArray[np.uint8]
    """(b, crop, crop, 3)."""
    labels: NDArray[np.int64]
    """(b,)."""
    slice: BatchSlice


def evaluation_slices(images: int, batch_size: int, rank: int, workers: int) -> list[BatchSlice]:
    """Split all images, in order, so that each is read by exactly one worker."""
    mine = np.arange(rank, images, workers)
    chunks = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return [BatchSlice(chunk, np.ones(len(chunk), np.float32), images) for chunk in chunks]


class ImageLoader:
    """Decodes and renders images of one dataset version in threads, ahead of their use."""

    def __init__(
        self,
        dataset: DatasetVersion,
        preprocess: Preprocess,
        augment: NoAugment | StandardAugment,
        settings: Loader,
        block_bytes: int = BLOCK_BYTES,
    ):
        """`block_bytes`: see `DatasetVersion.read_ahead`."""
        self._dataset = dataset
        self._preprocess = preprocess
        self._augment = augment
        self._settings = settings
        self._block_bytes = block_bytes
        # A decoder often waits for storage, so that one more than the CPUs keeps them busy.
        self.threads = (
            settings.threads if settings.threads != "auto" else torch.get_num_threads() + 1
        )
        """How many threads decode."""
        self._decoded: dict[str, PILImage.Image] = {}
        self._free_bytes = settings.decoded_cache_mb << 20
        self._lock = Lock()
        self.rendered = 0
        """How many images were rendered so far."""

    def batches(self, images: Images, slices: Sequence[BatchSlice], view: int) -> Iterator[Batch]:
        """Yield one batch per slice, in order, with `view` of each image."""
        side = self._preprocess.crop
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        order = np.concatenate([np.empty(0, np.int64), *(part.indices for part in slices)])
        numbers = count()
        with (
            ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool,
            self._dataset.read_ahead(images.at(order), self._block_bytes) as ahead,
        ):
            try:
                for batch_slice in slices:
                    chosen = images.at(batch_slice.indices)
                    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
                    labels = chosen.labels.astype(np.int64)
                    tasks = [
                        pool.submit(self._render, ahead, next(numbers), image, view, pixels[row])
                        for row, image in enumerate(chosen)
                    ]
                    pending.append((Batch(pixels, labels, batch_slice), tasks))
                    self.rendered += len(chosen)
                    if len(pending) > self._settings.prefetch:
                        yield _finished(*pending.popleft())
                while pending:
                    yield _finished(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _render(
        self, ahead: ReadAhead, number: int, image: Image, view: int, out: NDArray[np.uint8]
    ) -> None:
        picture = self._decode(ahead, number, image)
        out[:] = render(picture, image.sha256, view, self._preprocess, self._augment)

    def _decode(self, ahead: ReadAhead, number: int, image: Image) -> PILImage.Image:
        """Decode an image, the one with this number in the order of use, or take it from memory.

        Once the memory is full, what it holds stays. Replacing images would not help: an epoch
        touches each image once, in a new order.
        """
        if (cached := self._decoded.get(image.sha256)) is not None:
            ahead.skip(number)
            return cached
        picture = decode(ahead.read(number, image))
        with self._lock:
            size = picture.width * picture.height * 4  # PIL holds an RGB pixel in 4 bytes
            if size <= self._free_bytes and image.sha256 not in self._decoded:
                self._free_bytes -= size
                self._decoded[image.sha256] = picture
        return picture


def _finished(batch: Batch, tasks: list[Future[None]]) -> Batch:
    for task in tasks:
        task.result()
    return batch


def to_tensor(
    images: NDArray[np.uint8], preprocess: Preprocess, device: torch.device | None = None
) -> torch.Tensor:
    """Scale to 0..1 and normalise: (B, H, W, 3) uint8 to (B, 3, H, W) float32, channels_last.

    Bytes travel to `device`, not floats, which are four times as large.
    """
    pixels = torch.from_numpy(images)
    if device is not None and device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    scale, shift = scale_and_shift(preprocess, device)
    return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)


def scale_and_shift(
    preprocess: Preprocess, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a and b, (3,) each, of a x + b = (x / 255 - mean) / std: what normalises pixels."""
    std = torch.tensor(preprocess.std, device=device)
    return 1.0 / (255.0 * std), -torch.tensor(preprocess.mean, device=device) / std
