"""Files of every format, damaged in every way: an answer or an `ImageError`, and nothing else."""

import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from graft.data.image import FORMATS, decode, prepare
from graft.data.views import evaluation_view
from graft.errors import ImageError
from graft.spec import Preprocess

Encoded = Callable[..., bytes]
SMALL = Preprocess(resize=10, crop=8)
LENGTHS = (0, 1, 2, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
"""Lengths and sides that a parser may take for negative, for none or for more than there is."""
METADATA = {
    "JPEG": ("exif", "icc_profile", "xmp", "comment"),
    "PNG": ("exif", "icc_profile"),
    "WEBP": ("exif", "icc_profile", "xmp"),
    "TIFF": ("exif", "icc_profile"),
    "AVIF": ("exif", "icc_profile", "xmp"),
}
"""What Pillow writes beside the pixels, by format."""

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "P", "RGBA", "L"),
    "TIFF": ("RGB", "L", "CMYK"),
    "GIF": ("P",),
}
"""Colours to write, by format."""


of_damaged_files = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL.TiffImagePlugin", "ignore::PIL.Image.DecompressionBombWarning"
)
"""Pillow says so of metadata, and of sides beyond its own limit: ours refuses such images."""


def blocks() -> dict[str, bytes]:
    """A whole block of each sort of metadata."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return {
        "exif": exif.tobytes(),
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>',
        "comment": b"a comment",
    }


def with_metadata(
    choose: random.Random, encoded: Encoded, image: Image.Image, format: str
) -> bytes:
    """Write an image with blocks of metadata that are cut short, changed or random."""
    options = {}
    for name, block in blocks().items():
        if name in METADATA.get(format, ()) and choose.random() < 0.6:
            # Half of them end within their header.
            data = bytearray(block[: choose.randint(0, choose.choice((16, len(block))))])
            if data and choose.random() < 0.5:
                data[choose.randrange(len(data))] = choose.randrange(256)
            options[name] = bytes(data)
    try:
        return encoded(image, format, **options)
    except Exception:
        return encoded(image, format)  # Pillow writes no such block


def flip_bits(choose: random.Random, data: bytearray) -> None:
    for _ in range(choose.randint(1, 8)):
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def cut(choose: random.Random, data: bytearray) -> None:
    del data[choose.randint(0, len(data)) :]


def change_a_length(choose: random.Random, data: bytearray) -> None:
    """Write a length of 2 or 4 bytes somewhere: of a chunk, a box, a tag, or a side."""
    size, order = choose.choice((2, 4)), choose.choice(("big", "little"))
    # Most headers lie in the first 64 bytes.
    start = choose.randrange(min(len(data), choose.choice((64, len(data)))))
    data[start : start + size] = (choose.choice(LENGTHS) % 256**size).to_bytes(size, order)


def insert_or_drop(choose: random.Random, data: bytearray) -> None:
    start = choose.randrange(len(data))
    if choose.random() < 0.5:
        del data[start : start + choose.randint(1, 16)]
    else:
        data[start:start] = choose.randbytes(choose.randint(1, 16))


def mend_checksums(data: bytearray) -> None:
    """Give a PNG's chunks the checksums of what they hold, which else refuse every change."""
    start = 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4])
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4)
        start = end + 4


def mutated(choose: random.Random, encoded: Encoded, format: str) -> bytes:
    """One file of a format, damaged."""
    pixels = np.frombuffer(choose.randbytes(9 * 7 * 3), np.uint8).reshape(7, 9, 3)
    mode = choose.choice(MODES.get(format, ("RGB",)))
    data = bytearray(with_metadata(choose, encoded, Image.fromarray(pixels).convert(mode), format))
    for damage in choose.sample(
        (flip_bits, cut, change_a_length, insert_or_drop), choose.randint(0, 2)
    ):
        if data:
            damage(choose, data)
    if format == "PNG" and choose.random() < 0.7:
        mend_checksums(data)
    return bytes(data)


def try_files(encoded: Encoded, format: str, count: int, seed: int) -> tuple[int, int]:
    """Import files and evaluate them as a server does; return how many were right, how many not."""
    choose = random.Random(f"{format}/{seed}")
    answered = refused = 0
    for _ in range(count):
        data = mutated(choose, encoded, format)
        try:
            prepared = prepare(data, 8)
            assert evaluation_view(decode(data, 8), SMALL).shape == (8, 8, 3)
            decode(prepared.data, 8)
            answered += 1
        except ImageError:
            refused += 1
    return answered, refused


MOST_SLOWLY = [
    format if format in ("JPEG", "PNG") else pytest.param(format, marks=pytest.mark.slow)
    for format in FORMATS
]
"""The two that most images come in are fast tests."""


@of_damaged_files
@pytest.mark.parametrize("format", MOST_SLOWLY)
def test_a_damaged_file_is_an_answer_or_an_image_error(encoded: Encoded, format: str) -> None:
    answered, refused = try_files(encoded, format, 56, seed=0)  # 504 of all formats
    assert answered > 0
    assert refused > 0


@pytest.mark.nightly
@of_damaged_files
@pytest.mark.parametrize("format", FORMATS)
def test_ten_thousand_damaged_files(encoded: Encoded, format: str) -> None:
    answered, refused = try_files(encoded, format, 1112, seed=1)
    assert answered > 0
    assert refused > 0
