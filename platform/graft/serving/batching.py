"""Requests that arrive together share one forward."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]


class Batcher:
    """Gathers images while the forward before theirs runs; nobody waits for a batch to fill.

    An idle server answers a single image at once, a busy one in batches of up to `largest`.
    """

    def __init__(self, predict: Predict, largest: int):
        self._predict = predict
        self._largest = largest
        self._turn = asyncio.Lock()
        # Always the same thread: OpenMP keeps a set of workers for each that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._open: tuple[list[NDArray[np.uint8]], asyncio.Task[NDArray[np.float32]]] | None = None

    async def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return one image's row of what `predict` gives for the batch it ends up in."""
        if self._open is None or len(self._open[0]) == self._largest:
            batch: list[NDArray[np.uint8]] = []
            self._open = batch, asyncio.create_task(self._forward(batch))
        images, task = self._open
        images.append(image)
        row = len(images) - 1
        # A client that goes away takes back its own request, not its neighbours'.
        rows = await asyncio.shield(task)
        answer: NDArray[np.float32] = rows[row]
        return answer

    async def _forward(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        async with self._turn:
            if self._open and self._open[0] is images:
                self._open = None
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._predict, images)
