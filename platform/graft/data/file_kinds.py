"""Kinds of files that Graft cannot decode, told by their first bytes, so that errors name them."""

import re

SUPPORTED = "JPEG, PNG, GIF, BMP, PPM, WebP, TIFF, AVIF, JPEG 2000"
"""The formats of `image.FORMATS`, as people write them."""

_HEAD = 1024
"""How many bytes of its beginning a file is told by."""

_DAMAGED = "damaged (its header cannot be read)"
_PICTURE = f"not supported; supported: {SUPPORTED}"

# ISO base media files by their major brand: ISO/IEC 23008-12 for HEIC, AV1 Image File Format.
_REASONS = [
    (re.compile(pattern, re.DOTALL), reason)
    for pattern, reason in (
        (rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", _DAMAGED),
        (rb"II[*+]\0|MM\0[*+]|....ftypavi[fs]|\0\0\0\x0cjP  |\xff\x4f\xff\x51", _DAMAGED),
        (rb"....ftyp(hei|hev|mif1|msf1)", f"HEIC, {_PICTURE}"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", f"JPEG XL, {_PICTURE}"),
        (rb"\0\0[\1\2]\0[^\0]\0", f"ICO, {_PICTURE}"),
        (rb"8BPS", f"Photoshop, {_PICTURE}"),
        (rb"v/1\x01", f"OpenEXR, {_PICTURE}"),
        (rb"DDS ", f"DDS, {_PICTURE}"),
        (rb".{128}DICM", f"DICOM, {_PICTURE}"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", f"PostScript, {_PICTURE}"),
        (rb"(?i)[^<]{0,3}(<[?!][^>]*>|\s)*<svg[\s>]", f"SVG, {_PICTURE}"),
        (rb"%PDF", f"PDF, {_PICTURE}"),
        (rb"....ftypcrx |FUJIFILMCCD-RAW|II(U\0|RO|RS)|MMOR", f"a camera's raw file, {_PICTURE}"),
        (rb"\x93NUMPY|\x89HDF|SIMPLE  =", f"an array of numbers, {_PICTURE}"),
        (rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3", f"a video, {_PICTURE}"),
        (rb"version https://git-lfs", "a Git LFS pointer; fetch the image with `git lfs pull`"),
        (rb"/annex/objects/", "a git-annex pointer; fetch the image with `git annex get`"),
        (rb"\0\x05\x16[\0\x07]", "what macOS keeps beside a file, and not the file; remove it"),
        (
            rb"L\0\0\0\x01\x14\x02|\[InternetShortcut\]",
            "a shortcut of Windows; copy what it leads to",
        ),
        (rb"\0{16,}\Z", "nothing but zeros; was the copy or the download cut off?"),
        (
            rb"(?i)[^<]{0,3}(<[?!][^>]*>|\s)*<(!doctype html|html|head|body)|\s*<!doctype html",
            "an HTML page; was the download refused?",
        ),
        (rb"\s*([{\[]\s*[\"{\[]|<\?xml)", "JSON or XML; was the download refused?"),
        (rb"PAR1", "a Parquet file; import it by itself, or a folder of nothing else"),
        (rb".{257}ustar", "a tar file; import it by itself, or a folder of nothing else"),
        (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "an archive; unpack it first"),
    )
]


def explain_no_image(data: bytes) -> str:
    """Return why Pillow identifies no image in `data`: what it is, and what is expected."""
    head = data[:_HEAD]
    for pattern, reason in _REASONS:
        if pattern.match(head):
            return reason
    return f"not an image; supported: {SUPPORTED}"
