"""Requests of those who mean no good, or know no better, drawn from a seed."""

import base64
import functools
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from models import encoded, picture

LARGE_EVERY = 100
"""One of so many is an image that is taken, and costs as much as the limits allow."""


@dataclass(frozen=True)
class Attack:
    """One hostile request."""

    kind: str
    data: bytes
    leaves: bool = False
    """Whether its client is gone once it has sent this."""
    trickles: bool = False
    """Whether a byte follows every second, for as long as anybody reads."""


Draw = Callable[[random.Random, str], Attack]
"""Makes an attack on the model of this name."""


def attacks(seed: int, model: str, count: int) -> Iterator[Attack]:
    """Yield so many attacks, of all kinds in turn."""
    rng = random.Random(seed)
    for number in range(count):
        draw = _large if number % LARGE_EVERY == LARGE_EVERY // 2 else DRAWS[number % len(DRAWS)]
        yield draw(rng, model)


def _predict(
    model: str, body: bytes, kind: str = "image/jpeg", *lines: str, query: str = ""
) -> bytes:
    head = [
        f"POST /v1/models/{model}/predict{query} HTTP/1.1",
        "Host: graft",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *lines,
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def _truncated(rng: random.Random, model: str) -> Attack:
    kind = rng.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
    data = encoded(picture(rng.randrange(100)), kind)
    return Attack("truncated image", _predict(model, data[: rng.randrange(1, len(data) // 2)]))


def _flipped(rng: random.Random, model: str) -> Attack:
    """An image with bytes changed; some of them can be decoded still."""
    kind = rng.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM"])
    data = bytearray(encoded(picture(rng.randrange(100)), kind))
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Attack("damaged image", _predict(model, bytes(data)))


def _no_image(rng: random.Random, model: str) -> Attack:
    body = rng.choice(
        [
            b"",
            rng.randbytes(rng.randrange(1, 5_000)),
            b"%PDF-1.7 " + rng.randbytes(500),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\xff\xd8\xff" + rng.randbytes(2_000),
            b"\x89PNG\r\n\x1a\n" + rng.randbytes(2_000),
        ]
    )
    kind = rng.choice(
        ["image/png", "text/plain", "application/pdf", "", "\xe9", "image/jpeg;" * 50]
    )
    return Attack("no image", _predict(model, body, kind))


def _wrong_type(rng: random.Random, model: str) -> Attack:
    """JSON with something else where the image has to be."""
    value = rng.choice([None, True, 5, -1e308, [], {}, ["eA=="], "", "%%%", "é" * 50, "eA", "\0"])
    document = rng.choice(
        [value, {"image": value}, {"picture": value}, {"image": value, "top_k": 1}, [value]]
    )
    return Attack("wrong type", _predict(model, json.dumps(document).encode(), "application/json"))


def _nested(rng: random.Random, model: str) -> Attack:
    depth = rng.randrange(1_000, 100_000)
    body = rng.choice([b"[", b'{"image":', b'{"a":[', b'[{"":"",']) * depth
    return Attack("nested JSON", _predict(model, body, "application/json"))


def _many_values(rng: random.Random, model: str) -> Attack:
    body = rng.choice([b'{"a":1,', b"[1,", b'{"image": "' + b"! ", b'{"image": ' + b"9"])
    body += rng.choice([b"1,", b'"b":2,', b" ", b"9", b"\xff"]) * rng.randrange(1_000, 100_000)
    return Attack("endless JSON", _predict(model, body, "application/json"))


def _parts(rng: random.Random, model: str) -> Attack:
    part = rng.choice(
        [
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\r\n',
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n',
            b"--x\r\n\r\n",
            b"--x\r\n" + b"a: b\r\n" * 50,
            b"--x\r\nContent-Disposition: " + b"y" * 500 + b"\r\n\r\n",
        ]
    )
    body = part * rng.randrange(1_000, 5_000) + rng.choice([b"", b"--x--\r\n"])
    return Attack("thousands of parts", _predict(model, body, "multipart/form-data; boundary=x"))


def _bomb(rng: random.Random, model: str) -> Attack:
    """Few bytes that promise many pixels, or much text."""
    side = rng.choice([9_000, 20_000, 60_000, 2**31 - 1])
    data = rng.choice(
        [
            _png(side, side),
            _png(1, 50_000_001),
            _png(64, 64, (b"zTXt", b"k\0\0" + _zeros())),
            _png(64, 64, (b"iCCP", b"k\0\0" + _zeros())),
            b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, side, side, 1, 24, *[0] * 6),
            b"P6 %d %d 255\n" % (side, side) + bytes(100),
        ]
    )
    return Attack("decompression bomb", _predict(model, data))


@functools.cache
def _zeros() -> bytes:
    return zlib.compress(bytes(5_000_000))


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    others = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + others + pixels + chunk(b"IEND", b"")


def _scans(rng: random.Random, model: str) -> Attack:
    out = io.BytesIO()
    picture(rng.randrange(100)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return Attack("JPEG of a thousand scans", _predict(model, data[:last] + data[last:-2] * 1_000))


def _large(rng: random.Random, model: str) -> Attack:
    """An image that is taken, of few bytes, and costs."""
    return Attack("large image", _predict(model, _grey(rng.choice([3_000, 4_000, 5_000, 7_000]))))


@functools.cache
def _grey(side: int) -> bytes:
    return encoded(Image.new("RGB", (side, side), "grey"), "PNG")


def _compressed(rng: random.Random, model: str) -> Attack:
    body = _packed()
    coding = rng.choice(["gzip", "deflate", "br", "gzip, gzip", "zstd"])
    return Attack(
        "compressed body", _predict(model, body, "image/png", f"Content-Encoding: {coding}")
    )


@functools.cache
def _packed() -> bytes:
    return gzip.compress(bytes(10_000_000))


def _base64(rng: random.Random, model: str) -> Attack:
    text = base64.b64encode(rng.randbytes(3_000)).decode()
    text = rng.choice(
        [text[:-1], "data:image/png," + text, text + "=" * 50, " " * 50_000, "=" * 999]
    )
    body = json.dumps({"image": text}).encode()
    return Attack("broken base64", _predict(model, body, "application/json"))


def _headers(rng: random.Random, model: str) -> Attack:
    size = rng.choice([20_000, 40_000, 70_000, 200_000])
    lines = rng.choice(
        [
            [f"Cookie: {'x' * size}"],
            [f"X-{number}: y" for number in range(size // 12)],
            ["x:"] * (size // 4),
            [f"{'x' * size}: y"],
            [f"X-Request-Id: {'x' * size}", "traceparent: " + "0" * 500],
        ]
    )
    return Attack("header flood", _predict(model, b"x", "image/png", *lines))


def _addresses(rng: random.Random, model: str) -> Attack:
    path = rng.choice(
        [
            "/" + "a/" * rng.randrange(1, 20_000),
            "/v1/models/%00%ff/predict",
            "/docs/assets/../../../../etc/passwd",
            "/docs/assets/%2e%2e/%2e%2e/etc/passwd",
            f"/v1/models/{model}/predict?top_k=" + rng.choice(["0", "-1", "9" * 5_000, "x", "%ff"]),
            f"/v1/models/{model}/predict?" + "&".join("a=b" for _ in range(2_000)),
            f"//v1//models/{model}/stats",
            "http://elsewhere.example/",
            "*",
            "/\u00e9",
        ]
    )
    method = rng.choice(
        ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "HEAD", "BREW", "get"]
    )
    request = f"{method} {path} HTTP/1.1\r\nHost: graft\r\nConnection: close\r\n\r\n"
    return Attack("odd address", request.encode("latin-1"))


def _no_http(rng: random.Random, model: str) -> Attack:
    path = f"/v1/models/{model}/predict"
    request = rng.choice(
        [
            rng.randbytes(500) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00" + rng.randbytes(300),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(100),
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\n\r\n",
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".encode(),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {10**30}\r\n\r\n".encode(),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            "Content-Length: 2\r\n\r\nxy".encode(),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            f"Connection: close\r\n\r\n{'f' * 15}\r\n".encode()
            + bytes(1_000),
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        ]
    )
    return Attack("no HTTP", request)


def _leaves(rng: random.Random, model: str) -> Attack:
    data = encoded(picture(rng.randrange(100)))
    request = _predict(model, data)
    cut = rng.choice([len(request), len(request) - 1, len(request) - len(data), 40, 1])
    return Attack("disconnect", request[:cut], leaves=True)


def _too_large(rng: random.Random, model: str) -> Attack:
    head = _predict(model, b"").replace(
        b"Length: 0", b"Length: %d" % rng.choice([20_000_001, 10**12])
    )
    return Attack("body too large", head + bytes(200_000))


def _trickle(rng: random.Random, model: str) -> Attack:
    """Headers or a body that take for ever."""
    request = _predict(model, bytes(300_000))
    cut = rng.choice([1, 30, 90, request.index(b"\r\n\r\n") + 4, 1_000, 100_000])
    return Attack("slow socket", request[:cut], trickles=True)


DRAWS: tuple[Draw, ...] = (
    *(_truncated, _flipped, _no_image, _wrong_type, _nested, _many_values, _parts, _bomb, _scans),
    *(_compressed, _base64, _headers, _addresses, _no_http, _leaves, _too_large, _trickle),
)
