"""Rows of shards by image: found alike whether few are asked for or many."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graft.activations import rows as module
from graft.activations.rows import ROWS, Rows, ShardRows
from graft.data.arrow_file import digest_column, write_arrow
from graft.data.digests import DTYPE, Digests, first_of_each, from_hexadecimal, hexadecimal


def digests(count: int, seed: int = 0) -> Digests:
    data = np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)
    data[::7, :9] = 0  # of some the first eight bytes are alike
    data[::3, -1] = 0  # and some end with a zero
    return np.frombuffer(data.tobytes(), DTYPE)


def test_each_image_is_found_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    images, absent = digests(300), digests(100, seed=1)
    rows = Rows.of([ShardRows.all_of(images[:120]), ShardRows.all_of(images[120:])])
    asked = np.random.default_rng(2).permutation(np.concatenate([images, images[:50], absent]))
    here = {image: number for number, image in enumerate(images.tolist())}
    for few in (0, 1000):
        monkeypatch.setattr(module, "_FEW", few)
        places = rows.find(asked)
        assert [here.get(image, -1) for image in asked.tolist()] == [
            int(120 * rows.part[place] + rows.row[place]) if place >= 0 else -1 for place in places
        ]
        assert Rows.of([]).find(asked).tolist() == [-1] * len(asked)


def test_of_two_shards_with_an_image_the_first_counts() -> None:
    images = digests(6)
    shards = [ShardRows.all_of(images[:4]), ShardRows.all_of(images[::-1])]
    rows = Rows.of(shards)
    assert len(rows) == 6
    first, second = rows.by_shard(2)
    assert sorted(first.row.tolist()) == [0, 1, 2, 3]
    assert {int(row): digest for row, digest in zip(second.row, second.digests, strict=True)} == {
        0: images[5],
        1: images[4],
    }
    assert len(Rows.of([first, second])) == 6
    assert [len(each.row) for each in rows.by_shard(3)] == [4, 2, 0]


def test_digests_are_sorted_as_bytes_and_written_as_they_were() -> None:
    images = digests(200)
    assert from_hexadecimal(hexadecimal(images)).tobytes() == images.tobytes()
    both = np.concatenate([images, images[::-1]])
    assert first_of_each(both).tolist() == list(range(200))
    assert Rows.of([ShardRows.all_of(images)]).digests.tolist() == sorted(images.tolist())
    for malformed in ("0" * 63, "g" * 64):
        with pytest.raises(ValueError, match=r"\w"):
            from_hexadecimal([malformed])


def test_a_file_is_the_rows_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    rows = Rows.of([ShardRows.all_of(digests(20))])
    file = tmp_path / "rows.arrow"
    rows.write(file)
    data = file.read_bytes()
    with file.open("rb") as opened:
        mapped = Rows.read(opened, [20])
    in_memory = Rows.read(io.BytesIO(data), [20])
    for again in (mapped, in_memory):
        assert again.digests.tobytes() == rows.digests.tobytes()
        assert (again.row.tolist(), again.part.tolist()) == (rows.row.tolist(), [0] * 20)
        again.write(tmp_path / "again.arrow")
        assert (tmp_path / "again.arrow").read_bytes() == data
    for broken in (b"", data[:-30], data[:100], b"nothing" * 20):
        with pytest.raises((ValueError, pa.ArrowException)):
            Rows.read(io.BytesIO(broken), [20])
    columns = [digest_column(rows.digests[::-1]), pa.array(rows.part), pa.array(rows.row)]
    write_arrow(file, pa.RecordBatch.from_arrays(columns, schema=ROWS))
    with pytest.raises(ValueError, match="its images are not in order"):
        Rows.read(io.BytesIO(file.read_bytes()), [20])
    for part, row, counts in (
        ([0, 1], [0, 0], [1]),
        ([0], [-1], [1]),
        ([0], [1], [1]),
        ([0], [0], []),
    ):
        sha256 = pa.array([bytes([n]) * 32 for n in range(len(part))], pa.binary(32))
        columns = [sha256, pa.array(part, pa.int32()), pa.array(row, pa.int32())]
        write_arrow(file, pa.RecordBatch.from_arrays(columns, schema=ROWS))
        with pytest.raises(ValueError, match="it names a"):
            Rows.read(io.BytesIO(file.read_bytes()), counts)
