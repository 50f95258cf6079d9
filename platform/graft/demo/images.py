"""The demo's two image sets: rendered letters and figures, and real handwritten digits."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
"""Without I and O, which look like 1 and 0 in many fonts."""
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
"""Fonts with plain letters and figures that matplotlib ships."""
SEED = 0
"""Of all that is drawn at random: every demo has the same images."""
SIDE = 32
"""Side of every image, in pixels."""


@dataclass(frozen=True)
class LabelledImage:
    """An image file and what it shows."""

    path: Path
    label: str


def render_characters(folder: Path, per_class: int) -> int:
    """Render `per_class` PNGs of each character into class folders; return how many they are.

    Font, size, position, rotation, shear, colours and noise are drawn at random.
    """
    import matplotlib

    ttf = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = {name: (ttf / f"{name}.ttf").read_bytes() for name in FONTS}
    generator = random.Random(SEED)
    noise = np.random.default_rng(SEED)
    for character in CHARACTERS:
        (folder / character).mkdir(parents=True)
        for number in range(per_class):
            font = fonts[generator.choice(FONTS)]
            image = _character(character, font, generator, noise)
            image.save(folder / character / f"{number:04d}.png")
    return len(CHARACTERS) * per_class


def _character(
    character: str, font: bytes, generator: random.Random, noise: np.random.Generator
) -> Image.Image:
    big = SIDE * 3
    mask = Image.new("L", (big, big))
    size = round(big * generator.uniform(0.6, 0.95))
    ImageDraw.Draw(mask).text(
        (big / 2, big / 2),
        character,
        fill=255,
        font=ImageFont.truetype(io.BytesIO(font), size),
        anchor="mm",
        stroke_width=generator.choice((0, 0, 1, 2)),
    )
    mask = mask.rotate(generator.gauss(0, 10), Image.Resampling.BILINEAR)
    shear = generator.gauss(0, 0.15)
    shift = [generator.gauss(0, big / 24) for _ in range(2)]
    affine = (1, shear, -shear * big / 2 + shift[0], 0, 1, shift[1])
    mask = mask.transform((big, big), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    alpha = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)[..., None] / 255
    dark, light = noise.uniform(0, 90, 3), noise.uniform(150, 255, 3)
    ink, paper = (dark, light) if generator.random() < 0.5 else (light, dark)
    pixels = alpha * ink + (1 - alpha) * paper + noise.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_digits(
    labelled: Path, held_out: Path, train_per_class: int, val_per_class: int
) -> list[LabelledImage]:
    """Write scikit-learn's handwritten digits as PNGs; return the held-out ones, shuffled.

    They are real digits of 43 writers, 8 x 8 pixels each (Alpaydin & Kaynak 1998). The folder
    `labelled` gets train/ and val/ with class folders, `held_out` class folders with the rest.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    generator = np.random.default_rng(SEED)
    rest = []
    for label in range(10):
        rows = generator.permutation(np.flatnonzero(digits.target == label))
        for number, row in enumerate(rows):
            if number < train_per_class:
                folder = labelled / "train"
            elif number < train_per_class + val_per_class:
                folder = labelled / "val"
            else:
                folder = held_out
            path = folder / str(label) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _digit(digits.images[row]).save(path)
            if folder == held_out:
                rest.append(LabelledImage(path, str(label)))
    random.Random(SEED).shuffle(rest)
    return rest


def _digit(grey: NDArray[np.float64]) -> Image.Image:
    """Return an 8 x 8 digit with values from 0 to 16 as an RGB image of `SIDE` x `SIDE`."""
    small = Image.fromarray((grey * (255 / 16)).astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
