"""Image files are decoded in a few threads, and large ones one at a time.

What one image takes of a replica is bounded by its pixels, which its header says before anything is
decoded: docs/serving.md has the seconds and the memory. Pixels are never changed to fit: an image
that is too large is refused.
"""

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from graft.data.image import count_pixels
from graft.errors import ImageError, ImageTooLarge
from graft.serving.limits import Limits
from graft.serving.request_body import image_bytes

Prepare = Callable[[bytes], NDArray[np.uint8]]
"""An image file to what a model sees of it."""

LARGE_PIXELS = 16_000_000
"""Images with more take a lane of their own: they would keep small ones waiting for a second each,
and several at once would take gigabytes."""

FRUGAL_PIXELS = 4_000_000
"""The memory that images with more took is given back at once: glibc would keep a part of it for
each thread, and more as time goes by (300 MiB more after 380 images, of which 38 were large). It
takes some tens of milliseconds, of a decode of a tenth of a second at least."""

_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc's; other C libraries have none."""

_JPEG = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"


class Decoder:
    """Decodes the bodies of requests, never on the event loop."""

    def __init__(self, threads: int, limits: Limits):
        self._limits = limits
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="decode-large")

    async def decode(self, prepare: Prepare, content_type: str, body: bytes) -> NDArray[np.uint8]:
        """Return what `prepare` makes of the image in a body.

        Raises:
            HTTPException: 400, the body is not what its type says.
            ImageTooLarge: the image has more pixels than this server decodes.
            ImageError: the image cannot be used.
        """
        loop = asyncio.get_running_loop()

        def unless_large() -> NDArray[np.uint8] | bytes:
            data = image_bytes(content_type, body, self._limits.json_values)
            pixels = self._pixels(data)
            if pixels > LARGE_PIXELS:
                return data
            return _frugally(prepare, data) if pixels > FRUGAL_PIXELS else prepare(data)

        image = await loop.run_in_executor(self._small, unless_large)
        if isinstance(image, bytes):
            image = await loop.run_in_executor(self._large, _frugally, prepare, image)
        return image

    def _pixels(self, data: bytes) -> int:
        """Return how many pixels an image has, by which it takes time and memory.

        Raises:
            ImageTooLarge, ImageError: it would take too long.
        """
        pixels = count_pixels(data)
        limit = self._limits.megapixels
        if pixels > limit * 1e6:
            raise ImageTooLarge(
                f"{pixels / 1e6:.0f} megapixels, and this server decodes up to {limit:g}"
            )
        # In a JPEG's data 0xFF is never followed by 0xDA, so that this counts its scans (and those
        # of a preview in its header).
        scans = data.count(_SCAN) if data.startswith(_JPEG) else 0
        if scans > self._limits.jpeg_scans:
            raise ImageError(
                f"a JPEG of {scans} scans, and this server decodes up to {self._limits.jpeg_scans}"
            )
        return pixels


def _frugally(prepare: Prepare, data: bytes) -> NDArray[np.uint8]:
    """Prepare an image, and give the memory that this took back to the system."""
    try:
        return prepare(data)
    finally:
        if _trim is not None:
            _trim(0)
