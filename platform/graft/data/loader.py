"""From a dataset version to batches: who reads which image when, and the threads that do.

Who reads which image in which order is a pure function of (seed, epoch, worker count); threads
and the memory for decoded images only change how fast a batch comes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from graft.data.image import decode
from graft.data.index import Image, Images
from graft.data.manifest import DatasetVersion
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


def training_slices(
    images: int, batch_size: int, seed: int, epoch: int, rank: int, workers: int
) -> list[BatchSlice]:
    """Split a shuffled epoch into this worker's slices, the last short batch included.

    The global batches are the same at any worker count. If a batch has fewer images than
    there are workers, a worker without an image takes the first at weight 0, since all must
    take part in the exchange of gradients.
    """
    order = np.random.default_rng([seed, epoch]).permutation(images)
    slices = []
    for start in range(0, images, batch_size):
        batch = order[start : start + batch_size]
        mine = batch[rank::workers]
        weights = np.ones(len(mine), np.float32)
        if not len(mine):
            mine, weights = batch[:1], np.zeros(1, np.float32)
        slices.append(BatchSlice(mine, weights, len(batch)))
    return slices


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
    ):
        self._dataset = dataset
        self._preprocess = preprocess
        self._augment = augment
        self._settings = settings
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
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            try:
                for batch_slice in slices:
                    chosen = images.at(batch_slice.indices)
                    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
                    labels = chosen.labels.astype(np.int64)
                    tasks = [
                        pool.submit(self._render, image, view, pixels[row])
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

    def _render(self, image: Image, view: int, out: NDArray[np.uint8]) -> None:
        picture = self._decode(image)
        out[:] = render(picture, image.sha256, view, self._preprocess, self._augment)

    def _decode(self, image: Image) -> PILImage.Image:
        """Decode an image, or take it from memory.

        Once the memory is full, what it holds stays. Replacing images would not help: an epoch
        touches each image once, in a new order.
        """
        if (cached := self._decoded.get(image.sha256)) is not None:
            return cached
        picture = decode(self._dataset.read(image))
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
