"""Corruptions of images: harsher with their strength, and the same every time."""

import numpy as np
import pytest

from graft.report.corruptions import CORRUPTIONS, STRENGTHS, corrupt


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
        found = corrupt(pixels, name, strength, "ab" * 32)
        assert (found.shape, found.dtype) == (pixels.shape, np.uint8)
        assert np.array_equal(found, corrupt(pixels, name, strength, "ab" * 32))
        moved.append(np.abs(found.astype(float) - pixels).mean())
    assert 0 < moved[0] < moved[1] < moved[2]
    assert np.array_equal(pixels, before)


def test_noise_is_an_images_own(pixels: np.ndarray) -> None:
    one, other = (corrupt(pixels, "noise", 2, image) for image in ("a", "b"))
    assert not np.array_equal(one, other)
    assert np.std(one.astype(float) - pixels) == pytest.approx(255 * 0.18, rel=0.25)
