"""From the bytes of an image file to upright RGB pixels, the same in training and serving.

`decode` is the first half of the preprocessing contract: header check, full decode,
RGB, shrink, EXIF orientation. Import stores what `prepare` makes of an image, which decodes to
the same pixels: ``decode(prepared.data)`` equals ``decode(original, max_side)``.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from graft.data.file_kinds import explain_no_image
from graft.errors import ImageError, ImageTooLarge

MAX_PIXELS = 80_000_000
"""An image with more pixels is refused by its header, before it takes memory."""

LARGEST_MAX_SIDE = 16383
"""The longest side that a WebP file can have, in pixels."""

MAX_SIDE = 512
"""Default of `--max-side`, in pixels: an image of up to 2:1 then has a shorter side of at least
256, to which evaluation at 224 resizes."""

# Only formats of photographs and graphics: some of Pillow's others start programs (EPS), name
# other files or are containers, and untrusted files come in over HTTP.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")

# Pillow's own limit on pixels is higher than MAX_PIXELS, which is checked before decoding.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow warns of damaged metadata, which does not affect pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_STRIP_PIXELS = 1 << 20
"""Pixels whose colours are converted at a time: a large image is then in memory twice, before and
after, and not four times."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
"""Chunks of a PNG that its upright pixels follow from."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation."""


@dataclass(frozen=True)
class Prepared:
    """What import stores of an image."""

    data: bytes
    """The original bytes, or the shrunk image as lossless WebP."""
    format: str
    """Format of `data`, as a file's suffix."""
    width: int
    """Width of the upright source, in pixels."""
    height: int
    """Likewise its height."""
    changed: bool
    """Whether `decode` must also shrink the source, turn it or convert its colours."""


def decode(data: bytes, max_side: int | None = None) -> Image.Image:
    """Return the upright RGB image in `data`, its longer side at most `max_side` pixels.

    Alpha is laid over white, 16 bits are scaled to 8, an animation gives its first frame.

    Raises:
        ImageError: the bytes are not a whole image of a supported format.
    """
    with _damage_explained(data):
        source = _load(data)
        return _upright(source, _orientation(source), max_side)


def prepare(data: bytes, max_side: int) -> Prepared:
    """Return what import stores: `data` as it is, or shrunk if a side is above `max_side`.

    Raises:
        ImageError: as `decode`.
    """
    with _damage_explained(data):
        source = _load(data)
        orientation = _orientation(source)
        shrunk = max(source.size) > max_side
        # What is stored as it is needs no upright pixels here, only colours that can be converted.
        upright = _upright(source, orientation, max_side) if shrunk else _rgb(source)
    width, height = source.size if orientation < 5 else source.size[::-1]
    return Prepared(
        data=encode(upright) if shrunk else data,
        format="webp" if shrunk else (source.format or "").lower(),
        width=width,
        height=height,
        changed=shrunk or orientation != 1 or source.mode != "RGB",
    )


def encode(image: Image.Image) -> bytes:
    """Return an RGB image as lossless WebP, so that `decode` gives back exactly its pixels."""
    out = io.BytesIO()
    # The fastest setting: 5 ms for 512 by 384, half the size of raw pixels.
    image.save(out, "WEBP", lossless=True, method=0, quality=0)
    return out.getvalue()


def count_pixels(data: bytes) -> int:
    """Return how many pixels an image file says that it has; 0 where it does not say."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0  # `decode` says what is wrong with it


def _load(data: bytes) -> Image.Image:
    """Decode the whole first frame: its colours and orientation stay the file's."""
    if not data:
        raise ImageError("0 bytes")
    try:
        return _open(data)
    except ImageTooLarge:
        raise
    except Exception:
        if not data.startswith(_PNG):
            raise
        # Pillow refuses a PNG for its texts and colour profile where they are long or damaged.
        return _open(_without_metadata(data))


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))  # "Image size (400000000 pixels) exceeds ..."
        raise _too_large(int(pixels[0]) if pixels else MAX_PIXELS) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image.width * image.height)
    image.load()
    return image


def _too_large(pixels: int) -> ImageTooLarge:
    return ImageTooLarge(f"{pixels / 1e6:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}")


def _without_metadata(png: bytes) -> bytes:
    """Return a PNG of only those chunks that its upright pixels follow from."""
    chunks, start = [_PNG], len(_PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])  # length, kind, data, checksum
        if png[start + 4 : start + 8] in _PNG_PIXELS:
            chunks.append(png[start:end])
        start = end
    return b"".join(chunks)


def _upright(image: Image.Image, orientation: int, max_side: int | None) -> Image.Image:
    upright = _rgb(image)
    longer = max(upright.size)
    if max_side is not None and longer > max_side:
        width, height = (max(1, round(side * max_side / longer)) for side in upright.size)
        upright = upright.resize((width, height), Image.Resampling.BILINEAR)
    if orientation != 1:
        upright = upright.transpose(_TRANSPOSE[orientation])
    # A copy, since `image` holds on to the file's bytes and metadata.
    return upright.copy() if upright is image else upright


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in _TRANSPOSE else 1
    except Exception:
        return 1  # unreadable EXIF counts as none, whatever Pillow raises for it


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Pillow gives greyscale PGM of 16 bits as "I", scaled to 0..65535.
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not sixteen_bits:
        raise ImageError("32 bits a pixel, whose range is unknown; convert it to 8 or 16")
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if sixteen_bits:
            # The upper byte, which is what Pillow itself keeps of 16-bit colour.
            strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
        if strip.has_transparency_data:
            white = Image.new("RGBA", strip.size, "white")
            white.alpha_composite(strip.convert("RGBA"))
            strip = white
        rgb.paste(strip.convert("RGB"), (0, top))
    return rgb


@contextlib.contextmanager
def _damage_explained(data: bytes) -> Iterator[None]:
    """Make whatever Pillow raises for the bytes of a file an `ImageError`.

    Not so a `MemoryError`, which says that the machine is too small, and not what the file is.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(explain_no_image(data)) from error
    except Exception as error:
        # OSError, SyntaxError, ValueError, RuntimeError, struct.error and more.
        reason = " ".join(str(error).split())[:100]
        truncated = "truncated" in reason.lower()
        raise ImageError("truncated" if truncated else f"damaged ({reason})") from error
