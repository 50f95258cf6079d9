"""Requests that arrive together share one forward."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
_Batch = tuple[Predict, list[NDArray[np.uint8]], asyncio.Task[NDArray[np.float32]]]


class Batcher:
    """Gathers images while the forward before theirs runs; nobody waits for a batch to fill.

    An idle server answers a single image at once, a busy one in batches of up to `largest`.
    """

    def __init__(self, largest: int):
        self._largest = largest
        self._turn = asyncio.Lock()
        # Always the same thread: OpenMP keeps a set of workers for each that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._open: _Batch | None = None

    async def predict(self, predict: Predict, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return one image's row of what `predict` gives for the batch it ends up in.

        All images of a batch came with the same `predict`.
        """
        if self._open is None or self._open[0] != predict or len(self._open[1]) == self._largest:
            batch: list[NDArray[np.uint8]] = []
            self._open = predict, batch, asyncio.create_task(self._forward(predict, batch))
        _, images, task = self._open
        images.append(image)
        row = len(images) - 1
        # A client that goes away takes back its own request, not its neighbours'.
        rows = await asyncio.shield(task)
        answer: NDArray[np.float32] = rows[row]
        return answer

    async def predict_first(self, predict: Predict, image: NDArray[np.uint8]) -> None:
        """Predict an image before all that wait, so that only a forward that hangs delays it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, predict, [image])

    async def _forward(
        self, predict: Predict, images: list[NDArray[np.uint8]]
    ) -> NDArray[np.float32]:
        async with self._turn:
            if self._open and self._open[1] is images:
                self._open = None
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, predict, images)
