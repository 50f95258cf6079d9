"""Requests that arrive together share one forward."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from graft.serving.routes import Asked, Part, logits

MAX_BATCH = 8
"""Most images in one forward: more overflow a CPU's caches (SqueezeNet 1.1 at 224 takes a third
longer per image in batches of 16)."""


@dataclass(frozen=True)
class Row:
    """What a forward gave for one image, and how that came to be."""

    values: NDArray[np.float32]
    """(classes,)."""
    batch: int
    """Images in the forward."""
    began: float
    """When the forward began, by `perf_counter`."""
    forward_s: float


@dataclass(frozen=True)
class _Rows:
    """What a forward gave for its images, and when it was, by `perf_counter`."""

    values: list[NDArray[np.float32]]
    began: float
    ended: float


@dataclass(frozen=True)
class _Batch:
    """Images that share one forward."""

    asked: list[Asked]
    """Grows until the forward begins."""
    rows: asyncio.Task[_Rows]


class Batcher:
    """Gathers images while the forward before theirs runs, without waiting for a batch to fill.

    An idle server answers a single image at once, a busy one in batches of up to `largest`. A batch
    holds images of one root, of whichever models; roots take turns, as their batches were begun.
    Our own because Ray Serve's `batch` waits a set time for more requests, and needs Ray.
    """

    def __init__(self, largest: int):
        self._largest = largest
        self._forward_lock = asyncio.Lock()
        # Always the same thread: OpenMP starts a set of workers for each thread that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._open: dict[Part, _Batch] = {}  # by root: those that take further images

    async def predict(self, asked: Asked) -> Row:
        """Return the logits of one image, from the forward that it gets into."""
        batch = self._open.get(asked.root)
        if batch is None or len(batch.asked) == self._largest:
            together: list[Asked] = []
            batch = _Batch(together, asyncio.create_task(self._forward(together)))
            self._open[asked.root] = batch
        index = len(batch.asked)
        batch.asked.append(asked)
        # Shielded: a client that goes away cancels its own request, not the whole batch.
        done = await asyncio.shield(batch.rows)
        return Row(done.values[index], len(batch.asked), done.began, done.ended - done.began)

    async def predict_first(self, asked: Asked) -> None:
        """Predict one image ahead of all waiting batches: only a hanging forward delays it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, logits, [asked])

    async def _forward(self, asked: list[Asked]) -> _Rows:
        async with self._forward_lock:
            root = asked[0].root
            if (batch := self._open.get(root)) and batch.asked is asked:
                del self._open[root]
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _timed, asked)


def _timed(asked: list[Asked]) -> _Rows:
    began = perf_counter()
    values = logits(asked)
    return _Rows(values, began, perf_counter())
