"""Pictures for the data tests: small, deterministic, and all different."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Picture = Callable[..., Image.Image]
Encoded = Callable[..., bytes]


def _picture(seed: int = 0, width: int = 12, height: int = 8) -> Image.Image:
    """Smooth colours, so that lossy formats keep them recognisable."""
    grid = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Makes the RGB image number `seed`."""
    return _picture


@pytest.fixture(scope="session")
def encoded() -> Encoded:
    """Encodes an image in a format, with Pillow's options."""
    return _encoded


@pytest.fixture(scope="session")
def bomb() -> bytes:
    """A black bilevel PNG of 20,000 by 20,000 pixels, in 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)), 1)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="session")
def write_classes() -> Callable[..., Path]:
    """Writes a source: ``write_classes(root, {"ants": 5, "val/bees": 2})`` PNGs, no two alike."""

    def write(root: Path, counts: dict[str, int], first: int = 0) -> Path:
        seed = first
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                _picture(seed).save(root / folder / f"{i}.png")
                seed += 1
        return root

    return write


@pytest.fixture
def class_folders(write_classes: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a source into the test's folder: ``class_folders({"ants": 5, "val/bees": 2})``."""

    def write(counts: dict[str, int], name: str = "source", first: int = 0) -> Path:
        return write_classes(tmp_path / name, counts, first)

    return write
