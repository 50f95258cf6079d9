"""Photographs' likes, for where there are no real ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def photographs(folder: Path, train: int = 120, val: int = 10, seed: int = 0) -> Path:
    """Write 500 x 375 JPEGs of two classes, so many of each in each split."""
    noise = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                small = noise.integers(0, 255, (24, 32, 3), np.uint8)
                image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
                image.save(folder / split / label / f"{number}.jpg", quality=92)
    return folder
