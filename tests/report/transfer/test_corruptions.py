"""Corruptions of images: harsher with their strength, and the same every time."""

import numpy as np
import pytest

from graft.report.transfer.corruptions import CORRUPTIONS, STRENGTHS, corrupt


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Blobs of several sizes on a ramp."""
    noise = np.random.default_rng(0)
    image = np.linspace(40, 160, 64)[:, None, None] + np.zeros((64, 64, 3))
    for side in (4, 8, 16, 32):
        blobs = noise.normal(0, 25, (64 // side, 64 // side, 3))
        image += blobs.repeat(side, 0).repeat(side, 1)
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_moves_pixels_further(name: str, pixels: np.ndarray) -> None:
    before = pixels.copy()
    moved = []
    for strength in STRENGTHS:
        corrupted = corrupt(pixels, name, strength, "ab" * 32)
        assert (corrupted.shape, corrupted.dtype) == (pixels.shape, np.uint8)
        assert np.array_equal(corrupted, corrupt(pixels, name, strength, "ab" * 32))
        moved.append(np.abs(corrupted.astype(float) - pixels).mean())
    assert 0 < moved[0] < moved[1] < moved[2]
    assert np.array_equal(pixels, before)


def test_noise_differs_from_image_to_image(pixels: np.ndarray) -> None:
    first, second = (corrupt(pixels, "noise", 2, image) for image in ("a", "b"))
    assert not np.array_equal(first, second)
    assert np.std(first.astype(float) - pixels) == pytest.approx(255 * 0.18, rel=0.25)
