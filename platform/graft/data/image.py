"""From the bytes of an image file to upright RGB pixels, the same in training and serving.

`decode` is the first half of the preprocessing contract: header check, full decode,
RGB, shrink, EXIF orientation. Import stores what `prepare` makes of an image, which decodes to
the same pixels: ``decode(prepared.data)`` equals ``decode(original, max_side)``.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

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

# MAX_PIXELS is checked before decoding; Pillow's own check warns, in whichever thread decodes.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of damaged metadata, which does not affect pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

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
    return _upright(_load(data), max_side)


def prepare(data: bytes, max_side: int) -> Prepared:
    """Return what import stores: `data` as it is, or shrunk if a side is above `max_side`.

    Raises:
        ImageError: as `decode`.
    """
    source = _load(data)
    upright = _upright(source, max_side)
    shrunk = max(source.size) > max_side
    orientation = _orientation(source)
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


def _load(data: bytes) -> Image.Image:
    """Decode the whole first frame: its colours and orientation stay the file's."""
    if not data:
        raise ImageError("0 bytes")
    with _damage_explained():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    megapixels = image.width * image.height / 1e6
    if megapixels > MAX_PIXELS / 1e6:
        raise ImageTooLarge(f"{megapixels:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}")
    with _damage_explained():
        image.load()
    return image


def _upright(image: Image.Image, max_side: int | None) -> Image.Image:
    orientation = _orientation(image)
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
    except (SyntaxError, ValueError):
        return 1  # unreadable EXIF counts as none
    return value if value in _TRANSPOSE else 1


def _rgb(image: Image.Image) -> Image.Image:
    # Pillow gives greyscale PGM of 16 bits as "I", scaled to 0..65535.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # The upper byte, which is what Pillow itself keeps of 16-bit colour.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError("32 bits a pixel, whose range is unknown; convert it to 8 or 16")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except Exception as error:
        # On damaged bytes Pillow raises OSError, SyntaxError, ValueError, RuntimeError and more.
        reason = " ".join(str(error).split())[:100]
        truncated = "truncated" in reason.lower()
        raise ImageError("truncated" if truncated else f"damaged ({reason})") from error
