"""Parquet and tar files with random damage: an answer, or an error of ours, and nothing else."""

import random
from pathlib import Path

import pytest

from data.source_files import hugging_face, tar
from graft.data.source import open_source
from graft.errors import DataError, ImageError

IMAGES = [bytes(number for number in range(first, first + 90)) for first in range(6)]


def parquet(folder: Path) -> Path:
    labels = [0, 1, 0, 1, 1, 0]
    return Path(hugging_face(folder / "x.parquet", IMAGES, labels, ["a", "b"], split=["train"] * 6))


def webdataset(folder: Path) -> Path:
    members: dict[str, bytes | str] = {}
    for number, image in enumerate(IMAGES):
        key = str(number) * (120 if number == 3 else 1)  # a name that needs a header of its own
        members |= {f"{key}.jpg": image, f"{key}.cls": "a", f"{key}.json": '{"label": 1}'}
    return Path(tar(folder / "x.tar", members))


def damage(choose: random.Random, data: bytearray) -> None:
    """Change some bytes, or a run of them, or cut."""
    for _ in range(choose.randint(1, 4)):
        start = choose.randrange(len(data))
        length = choose.choice((1, 1, 4, 12))
        data[start : start + length] = choose.choice(
            (choose.randbytes(length), b"\xff" * length, b"\0" * length, b"9" * length)
        )
    if choose.random() < 0.2:
        del data[choose.randrange(len(data)) :]


def mend_checksums(data: bytearray) -> None:
    """Give every header the checksum of what it holds, without which tarfile reads no more."""
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            fields = data[start : start + 148] + b" " * 8 + data[start + 156 : start + 512]
            data[start + 148 : start + 156] = f"{sum(fields):06o}\0 ".encode()


def try_files(path: Path, count: int, seed: int) -> tuple[int, int]:
    """Open damaged copies of a file; return how many images were read, and how many refused."""
    whole, choose = path.read_bytes(), random.Random(f"{path.name}/{seed}")
    answered = refused = 0
    for _ in range(count):
        data = bytearray(whole)
        damage(choose, data)
        if path.suffix == ".tar" and choose.random() < 0.8:
            mend_checksums(data)
        path.write_bytes(data)
        try:
            source = open_source(str(path))
        except DataError:
            refused += 1
            continue
        for file in source.files:
            try:
                source.read(file)
                answered += 1
            except ImageError:
                refused += 1
    return answered, refused


@pytest.mark.slow  # a CPU second
@pytest.mark.parametrize("write", [parquet, webdataset])
def test_a_damaged_file_is_an_answer_or_an_error_of_ours(tmp_path, write):
    answered, refused = try_files(write(tmp_path), 150, seed=0)
    assert answered > 0
    assert refused > 0


@pytest.mark.nightly
@pytest.mark.parametrize("write", [parquet, webdataset])
def test_thousands_of_damaged_files(tmp_path, write):
    answered, refused = try_files(write(tmp_path), 10_000, seed=1)
    assert answered > 0
    assert refused > 0
