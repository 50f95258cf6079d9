"""Requests that arrive together share one forward."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

MAX_BATCH = 8
"""Most images in one forward: more overflow a CPU's caches (SqueezeNet 1.1 at 224 takes a third
longer per image in batches of 16)."""

Predict = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
"""B prepared images, each (crop, crop, 3), to rows (B, classes)."""


@dataclass(frozen=True)
class Row:
    """What a forward gave for one image, and how that came to be."""

    values: NDArray[np.float32]
    """(classes,)."""
    wait_s: float
    """From asking for it to the beginning of the forward."""
    forward_s: float
    batch: int
    """Images in the forward."""


@dataclass(frozen=True)
class _Rows:
    """What a forward gave: (B, classes), and when it was, by `perf_counter`."""

    values: NDArray[np.float32]
    began: float
    ended: float


@dataclass(frozen=True)
class _Batch:
    """Images that share one forward."""

    predict: Predict
    images: list[NDArray[np.uint8]]
    """Grows until the forward begins."""
    rows: asyncio.Task[_Rows]
    """What `predict` returns for the images."""


class Batcher:
    """Gathers images while the forward before theirs runs, without waiting for a batch to fill.

    An idle server answers a single image at once, a busy one in batches of up to `largest`.
    Our own because Ray Serve's `batch` waits a set time for more requests, and needs Ray.
    """

    def __init__(self, largest: int):
        self._largest = largest
        self._forward_lock = asyncio.Lock()
        # Always the same thread: OpenMP starts a set of workers for each thread that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._open: _Batch | None = None  # takes further images

    async def predict(self, predict: Predict, image: NDArray[np.uint8]) -> Row:
        """Return the row of one image, from the forward of the batch it is put into.

        A batch holds images of one `predict` only.
        """
        asked = perf_counter()
        batch = self._open
        if batch is None or batch.predict != predict or len(batch.images) == self._largest:
            images: list[NDArray[np.uint8]] = []
            rows = asyncio.create_task(self._forward(predict, images))
            self._open = batch = _Batch(predict, images, rows)
        index = len(batch.images)
        batch.images.append(image)
        # Shielded: a client that goes away cancels its own request, not the whole batch.
        done = await asyncio.shield(batch.rows)
        forward_s = done.ended - done.began
        return Row(done.values[index], done.began - asked, forward_s, len(batch.images))

    async def predict_first(self, predict: Predict, image: NDArray[np.uint8]) -> None:
        """Predict one image ahead of all waiting batches: only a hanging forward delays it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, predict, [image])

    async def _forward(self, predict: Predict, images: list[NDArray[np.uint8]]) -> _Rows:
        async with self._forward_lock:
            if self._open and self._open.images is images:
                self._open = None
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _timed, predict, images)


def _timed(predict: Predict, images: list[NDArray[np.uint8]]) -> _Rows:
    began = perf_counter()
    values = predict(images)
    return _Rows(values, began, perf_counter())
