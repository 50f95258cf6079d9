"""Named corruptions of images, each at three strengths, the same for every model.

Severities 1, 3 and 5 of Hendrycks & Dietterich (2019), arXiv:1903.12261, applied to what the model
sees (crop x crop pixels). Noise is a function of the image and the strength alone.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from graft.report.evaluation.predictions import Pixels

STRENGTHS = (1, 2, 3)


def _noise(pixels: Pixels, strength: int, image: str) -> Pixels:
    deviation = (0.08, 0.18, 0.38)[strength - 1]
    seed = hashlib.sha256(f"noise/{strength}/{image}".encode()).digest()[:8]
    noise = np.random.default_rng(int.from_bytes(seed)).normal(0, 255 * deviation, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def _blur(pixels: Pixels, strength: int, image: str) -> Pixels:
    radius = (1, 3, 6)[strength - 1] * pixels.shape[0] / 224  # the paper's radii are for 224 pixels
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(pixels: Pixels, strength: int, image: str) -> Pixels:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=(25, 15, 7)[strength - 1])
    with Image.open(out) as decoded:
        return np.asarray(decoded.convert("RGB"))


def _brightness(pixels: Pixels, strength: int, image: str) -> Pixels:
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.int16)
    hsv[..., 2] += round(255 * (0.1, 0.3, 0.5)[strength - 1])
    bright = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV")
    return np.asarray(bright.convert("RGB"))


def _contrast(pixels: Pixels, strength: int, image: str) -> Pixels:
    factor = (0.4, 0.2, 0.05)[strength - 1]
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(factor))


CORRUPTIONS: dict[str, Callable[[Pixels, int, str], Pixels]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
}


def corrupt(pixels: Pixels, name: str, strength: int, image: str) -> Pixels:
    """Return a corrupted copy of an image: (crop, crop, 3) uint8.

    Args:
        pixels: what the model would see.
        name: one of `CORRUPTIONS`.
        strength: one of `STRENGTHS`.
        image: SHA-256 of the image's source, from which noise is drawn.
    """
    return CORRUPTIONS[name](pixels, strength, image)
