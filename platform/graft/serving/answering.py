"""From the body of a request to logits: decoded, loaded, batched and computed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from graft.serving.batching import MAX_BATCH, Batcher
from graft.serving.decoding import Decoder
from graft.serving.limits import Limits
from graft.serving.predictor import Predictor
from graft.serving.routes import Asked

LOADED_AT_ONCE = 2
"""Tails that are loaded at the same time, each beside the budget for tails until it is there."""


@dataclass(frozen=True)
class Answered:
    """What a model gave for an image, and how long the parts of that took, in seconds."""

    logits: NDArray[np.float32]
    """(classes,)."""
    batch: int
    """Images in the forward."""
    decode_s: float
    """From the body to the pixels that the model sees."""
    wait_s: float
    """From there to the beginning of the forward."""
    forward_s: float


class Answerer:
    """Answers for the images of all models of a process."""

    def __init__(self, decode_threads: int, limits: Limits):
        self._decoder = Decoder(decode_threads, limits)
        self._batcher = Batcher(MAX_BATCH)
        self._loading = ThreadPoolExecutor(LOADED_AT_ONCE, thread_name_prefix="load")

    async def answer(self, predictor: Predictor, content_type: str, body: bytes) -> Answered:
        """Return what a predictor gives for the image in a body.

        Raises:
            HTTPException: 400, the body is not what its type says.
            ImageError: the image cannot be used.
            StoreError: the model's tail is not in memory, and cannot be loaded.
        """
        start = perf_counter()
        image = await self._decoder.decode(predictor.prepare, content_type, body)
        decoded = perf_counter()
        engine = predictor.engine
        route = engine.ready_route()
        if route is None:
            loop = asyncio.get_running_loop()
            route = await loop.run_in_executor(self._loading, engine.route)
        row = await self._batcher.predict(Asked(route, image))
        wait_s = row.began - decoded
        return Answered(row.values, row.batch, decoded - start, wait_s, row.forward_s)

    async def check(self, predictor: Predictor) -> None:
        """Compute an image ahead of all that wait, with what is in memory of a predictor.

        It hangs or raises where no image can be answered any more.
        """
        crop = predictor.version.contract.crop
        image = np.zeros((crop, crop, 3), np.uint8)
        await self._batcher.predict_first(Asked(predictor.engine.in_memory, image))
