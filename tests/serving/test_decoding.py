"""Decoding: large images one at a time, beside small ones, and within limits of serving's own."""

import asyncio
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from graft.data.image import MAX_PIXELS, count_pixels
from graft.data.image import decode as decode_file
from graft.data.views import evaluation_view
from graft.errors import ImageError, ImageTooLarge
from graft.serving import decoding
from graft.serving.decoding import Decoder
from graft.serving.limits import MOST_MEGAPIXELS, Limits
from graft.spec import Contract
from models import encoded, picture


def test_small_images_pass_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large image that takes for ever keeps other large ones waiting, and no small one."""
    small, large = encoded(picture(1)), encoded(picture(2).resize((400, 300)))
    monkeypatch.setattr(decoding, "LARGE_PIXELS", count_pixels(large) - 1)
    decoder = Decoder(1, Limits())
    begun, go_on, lanes = threading.Event(), threading.Event(), list[str]()

    def prepare(data: bytes) -> NDArray[np.uint8]:
        lanes.append(threading.current_thread().name)
        if data == large:
            begun.set()
            go_on.wait(60)
        return np.zeros(1, np.uint8)

    async def ask() -> None:
        waiting = [
            asyncio.create_task(decoder.decode(prepare, "image/jpeg", large)) for _ in range(3)
        ]
        await asyncio.to_thread(begun.wait, 60)
        await decoder.decode(prepare, "image/jpeg", small)
        assert not any(task.done() for task in waiting)
        assert lanes == ["decode-large_0", "decode_0"]
        go_on.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    assert lanes == ["decode-large_0", "decode_0", "decode-large_0", "decode-large_0"]


def decode(limits: Limits, data: bytes) -> None:
    def never(data: bytes) -> NDArray[np.uint8]:
        pytest.fail("it is decoded")

    asyncio.run(Decoder(1, limits).decode(never, "image/jpeg", data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_more_pixels_than_serving_decodes_are_refused_before_decoding(kind: str) -> None:
    data = encoded(picture(1), kind)
    pixels = count_pixels(data)
    assert pixels == np.prod(picture(1).size)
    limit = (pixels - 1) / 1e6
    with pytest.raises(ImageTooLarge, match=f"this server decodes up to {limit:g}"):
        decode(Limits(megapixels=limit), data)


def test_no_server_takes_more_pixels_than_import() -> None:
    assert MOST_MEGAPIXELS * 1e6 == MAX_PIXELS


def test_a_jpeg_of_a_thousand_scans_is_refused_before_decoding() -> None:
    out = io.BytesIO()
    picture(1).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    scans = data.count(b"\xff\xda")
    assert 2 < scans <= Limits().jpeg_scans
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 1000 + data[-2:]
    assert Image.open(io.BytesIO(bomb)).size == picture(1).size
    with pytest.raises(ImageError, match=f"a JPEG of {scans + 999} scans"):
        decode(Limits(), bomb)


def test_what_has_no_header_is_left_to_the_decoder() -> None:
    assert count_pixels(b"no image") == 0
    assert count_pixels(b"") == 0


@pytest.mark.slow  # large images are decoded
def test_what_large_images_took_is_given_back() -> None:
    """To the system: else a replica grows with every few of them, in each of its threads."""
    contract = Contract(resize=72, crop=64, max_side=80)
    files = [encoded(Image.new("RGB", (side, 4_000), "grey"), "PNG") for side in (3_000, 4_500)]

    def prepare(data: bytes) -> NDArray[np.uint8]:
        return evaluation_view(decode_file(data, contract.max_side), contract)

    async def several() -> None:
        decoder = Decoder(2, Limits())
        for _ in range(3):
            coming = [decoder.decode(prepare, "image/png", data) for data in files * 4]
            await asyncio.gather(*coming)

    before = resident_bytes()
    asyncio.run(several())
    assert resident_bytes() - before < 40e6


def resident_bytes() -> int:
    """Return how much memory of this process is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
