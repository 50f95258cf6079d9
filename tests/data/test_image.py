import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from graft.data.file_kinds import SUPPORTED
from graft.data.image import FORMATS, decode, prepare
from graft.errors import ImageError

UNSUPPORTED = f"not supported; supported: {SUPPORTED}"


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and np.array_equal(np.asarray(one), np.asarray(other))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, encoded, format, orientation):
    stored = picture()
    data = encoded(stored, format, exif=oriented(orientation), lossless=True)
    upright = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encoded(stored, "PNG", exif=oriented(orientation))))
    )
    assert same(decode(data), upright.convert("RGB"))


def test_orientation_six_turns_clockwise(encoded):
    left_red = Image.new("RGB", (4, 2), "blue")
    left_red.paste("red", (0, 0, 2, 2))
    upright = decode(encoded(left_red, "PNG", exif=oriented(6)))
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == (255, 0, 0)
    assert upright.getpixel((1, 3)) == (0, 0, 255)


def test_unreadable_exif_is_as_good_as_none(picture, encoded):
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0 no such thing")
    assert decode(data).size == picture().size


def test_greyscale_and_bilevel_become_rgb(picture, encoded):
    for mode in ("L", "1"):
        source = picture().convert(mode)
        assert same(decode(encoded(source, "PNG")), source.convert("RGB"))


def test_cmyk_becomes_rgb(picture, encoded):
    source = picture().convert("CMYK")
    assert same(decode(encoded(source, "TIFF")), source.convert("RGB"))
    found = np.asarray(decode(encoded(source, "JPEG", quality=95)), int)
    assert np.abs(found - np.asarray(picture(), int)).mean() < 6


def test_alpha_is_laid_over_white(encoded):
    half = Image.new("RGBA", (2, 1), (200, 100, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 51))
    found = decode(encoded(half, "PNG"))
    assert found.getpixel((0, 0)) == (200, 100, 0)
    assert found.getpixel((1, 0)) == (204, 204, 204)


def test_grey_with_alpha(encoded):
    found = decode(encoded(Image.new("LA", (2, 1), (0, 0)), "PNG"))
    assert found.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(encoded, format):
    source = Image.new("P", (3, 1), 1)
    source.putpalette([0, 0, 0, 10, 20, 30])
    source.putpixel((0, 0), 0)
    found = decode(encoded(source, format, transparency=0))
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((1, 0)) == (10, 20, 30)


def test_palette_with_alpha_for_each_entry(encoded):
    source = Image.new("P", (2, 1), 1)
    source.putpalette([0, 0, 0, 0, 0, 0])
    source.putpixel((0, 0), 0)
    found = decode(encoded(source, "PNG", transparency=b"\xff\x33"))
    assert found.getpixel((0, 0)) == (0, 0, 0)
    assert found.getpixel((1, 0)) == (204, 204, 204)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(encoded, format):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    found = decode(encoded(Image.fromarray(values), format))
    assert np.asarray(found)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_an_animation_gives_its_first_frame(picture, encoded):
    frames = [picture(seed).quantize(16) for seed in range(3)]
    for format in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert same(decode(data), frames[0].convert("RGB"))


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [((100, 50), (32, 16)), ((50, 100), (16, 32)), ((32, 8), (32, 8)), ((900, 2), (32, 1))],
)
def test_the_longer_side_is_limited(picture, encoded, size, shrunk):
    assert decode(encoded(picture(0, *size), "PNG"), 32).size == shrunk


def test_shrinking_averages_what_it_drops(encoded):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    found = np.asarray(decode(encoded(Image.fromarray(stripes), "PNG"), 8), int)
    assert np.abs(found - 127).max() <= 12


@pytest.mark.parametrize("size", [(20, 14), (40, 28), (27, 90)])
@pytest.mark.parametrize("format", FORMATS)
def test_what_import_keeps_decodes_to_the_same_pixels(picture, encoded, format, size):
    exif = {"exif": oriented(6)} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    data = encoded(picture(1, *size), format, **exif)
    prepared = prepare(data, 30)
    assert same(decode(prepared.data), decode(data, 30))
    assert same(decode(prepared.data, 30), decode(data, 30))
    assert (prepared.data == data) == (max(size) <= 30)


def test_what_import_says_of_an_image(picture, encoded):
    turned = prepare(encoded(picture(0, 12, 8), "PNG", exif=oriented(6)), 512)
    assert (turned.width, turned.height, turned.changed, turned.format) == (8, 12, True, "png")
    plain = prepare(encoded(picture(0, 12, 8), "JPEG"), 512)
    assert (plain.width, plain.height, plain.changed, plain.format) == (12, 8, False, "jpeg")
    shrunk = prepare(encoded(picture(0, 12, 8), "JPEG"), 6)
    assert (shrunk.width, shrunk.height, shrunk.changed, shrunk.format) == (12, 8, True, "webp")
    assert prepare(encoded(picture().convert("L"), "PNG"), 512).changed


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000"])
def test_half_a_file_is_refused(picture, encoded, format):
    data = encoded(picture(0, 60, 40), format)
    with pytest.raises(ImageError, match=r"^(truncated|damaged \(.+\))$"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"just some text", f"not an image; supported: {SUPPORTED}"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", f"SVG, {UNSUPPORTED}"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg>", f"SVG, {UNSUPPORTED}"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", f"PostScript, {UNSUPPORTED}"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", f"HEIC, {UNSUPPORTED}"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", f"HEIC, {UNSUPPORTED}"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isom", f"a video, {UNSUPPORTED}"),
        (b"\0\0\1\0\1\0\x10\x10", f"ICO, {UNSUPPORTED}"),
        (b"%PDF-1.7", f"PDF, {UNSUPPORTED}"),
        (b"8BPS\0\1", f"Photoshop, {UNSUPPORTED}"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "a Git LFS pointer; fetch the image with `git lfs pull`",
        ),
        (b"\n<!DOCTYPE html><html>", "an HTML page; was the download refused?"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "an HTML page; was the download refused?"),
        (b"PK\3\4", "an archive; unpack it first"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", f"a camera's raw file, {UNSUPPORTED}"),
        (b"\0\0\2" + bytes(15), f"not an image; supported: {SUPPORTED}"),  # TGA, and no ICO
        (
            b"/annex/objects/SHA256E-s31--ab.jpg",
            "a git-annex pointer; fetch the image with `git annex get`",
        ),
        (
            b"\0\5\x16\7\0\2\0\0Mac OS X",
            "what macOS keeps beside a file, and not the file; remove it",
        ),
        (bytes(5000), "nothing but zeros; was the copy or the download cut off?"),
        (b'{"error": "gone"}', "JSON or XML; was the download refused?"),
        (b"\x89PNG\r\n\x1a\n", "damaged (its header cannot be read)"),
    ],
)
def test_refused_with_what_it_is_and_what_is_expected(data, reason):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert str(caught.value) == reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # of damaged metadata
@pytest.mark.parametrize("length", range(12))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_exif_of_any_length_is_as_good_as_none(picture, encoded, format, length):
    block = b"Exif\0\0" + b"II*\0\x08\0\0\0\1\0\x12\1"[:length]
    data = encoded(picture(), format, exif=block)
    assert prepare(data, 512).width == picture().width


def texts(size: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * size, zip=True)
    info.add_text("workflow", "y" * size)
    return info


def with_a_damaged_text(png: bytes) -> bytes:
    """A text whose checksum is wrong, between header and pixels."""
    chunk = struct.pack(">I", 3) + b"tEXt" + b"a\0b" + b"\0\0\0\0"
    return png[:33] + chunk + png[33:]


def test_a_png_is_read_whatever_its_metadata(picture, encoded):
    upright = decode(encoded(picture(), "PNG", exif=oriented(6)))
    for options in ({"pnginfo": texts(3_000_000)}, {"icc_profile": b"0" * 2_000_000}):
        assert same(decode(encoded(picture(), "PNG", exif=oriented(6), **options)), upright)
    assert same(decode(with_a_damaged_text(encoded(picture(), "PNG"))), picture())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK"])
def test_colours_converted_in_strips_are_those_of_the_whole(monkeypatch, encoded, mode):
    noise = np.random.default_rng(0).integers(0, 256, (41, 13, 4), np.uint8)
    source = Image.fromarray(noise).convert(mode)
    data = encoded(source, "TIFF" if mode == "CMYK" else "PNG")
    whole = decode(data)
    monkeypatch.setattr("graft.data.image._STRIP_PIXELS", 40)
    assert same(decode(data), whole)


def test_pillows_own_limit_is_left_to_others():
    assert Image.MAX_IMAGE_PIXELS


def test_a_bomb_is_refused_from_its_header(bomb):
    assert len(bomb) < 300_000
    with pytest.raises(ImageError) as caught:
        decode(bomb)
    assert str(caught.value) == "400 megapixels, more than 80"


def test_floating_point_pixels_are_refused(encoded):
    with pytest.raises(ImageError, match="32 bits a pixel"):
        decode(encoded(Image.new("F", (3, 3), 0.5), "TIFF"))


def test_threads_decode_alike(picture, encoded):
    data = encoded(picture(3, 300, 200), "JPEG")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: decode(data, 64), range(64)))
    assert all(same(result, results[0]) for result in results)
