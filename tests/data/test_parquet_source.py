"""Sources that are Parquet files with images' bytes in them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.source_files import hugging_face, labelled, reasons, write
from graft.data.parquet_rows import BATCH, RowReader
from graft.data.source import open_source
from graft.errors import DataError, ImageError
from graft.store import Store


def images(count: int, first: int = 0) -> list[bytes]:
    return [f"image {number}".encode() for number in range(first, first + count)]


def parquet(to: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), to)
    return str(to)


def test_a_file_as_hugging_face_writes_it(tmp_path):
    uri = hugging_face(tmp_path / "train.parquet", images(5), [0, 1, 0, 1, 1], ["ant", "bee"])
    source = open_source(uri)
    assert labelled(source) == {
        f"train.parquet/row {row}": ("train", label)
        for row, label in enumerate(["ant", "bee", "ant", "bee", "bee"])
    }
    assert [source.read(file) for file in source.files] == images(5)
    assert [source.read(file) for file in reversed(source.files)] == images(5)[::-1]
    assert source.splits == set()


def test_a_folder_with_a_file_for_each_split_and_documents(tmp_path):
    hugging_face(tmp_path / "data" / "train-00000-of-00002.parquet", images(2), [0, 1], ["a", "b"])
    # Its classes are in another order.
    hugging_face(tmp_path / "data" / "train-00001-of-00002.parquet", images(1, 2), [0], ["b", "a"])
    hugging_face(tmp_path / "data" / "test-00000-of-00001.parquet", images(1, 3), [1], ["a", "b"])
    write(tmp_path, "README.md", ".gitattributes", "dataset_infos.json")
    source = open_source(str(tmp_path))
    assert [(file.split, file.label) for file in source.files] == [
        ("test", "b"),
        ("train", "a"),
        ("train", "b"),
        ("train", "b"),
    ]
    assert source.splits == {"train", "test"}
    assert [source.read(file) for file in source.files] == [*images(1, 3), *images(3)]
    assert "passed by: README.md, dataset_infos.json" in source.notes


def test_a_folder_as_spark_writes_it(tmp_path):
    hugging_face(tmp_path / "x.parquet" / "part-0000.snappy.parquet", images(1), ["a"])
    write(tmp_path / "x.parquet", "_SUCCESS", "._SUCCESS.crc")
    source = open_source(str(tmp_path / "x.parquet"))
    assert labelled(source) == {"part-0000.snappy.parquet/row 0": ("train", "a")}


@pytest.mark.parametrize(
    ("column", "labels", "expected"),
    [
        (pa.binary(), ["x", " y "], ["x", "y"]),
        (pa.large_binary(), [7, 11], ["7", "11"]),
        (pa.binary(), pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.binary(), pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.struct({"bytes": pa.large_binary()}), pa.array([1, 2], pa.uint8()), ["1", "2"]),
    ],
)
def test_bytes_and_labels_of_other_kinds(tmp_path, column, labels, expected):
    data = images(2)
    values = [{"bytes": value} for value in data] if pa.types.is_struct(column) else data
    uri = parquet(tmp_path / "x.parquet", picture=pa.array(values, column), Label=labels)
    source = open_source(uri)
    assert [file.label for file in source.files] == expected
    assert [source.read(file) for file in source.files] == data


def test_a_column_may_choose_the_splits(tmp_path):
    uri = parquet(
        tmp_path / "x.parquet",
        image=images(3),
        label=["a", "a", "b"],
        split=["Train", "validation", "test"],
    )
    source = open_source(uri)
    assert [file.split for file in source.files] == ["train", "val", "test"]
    assert source.splits == {"train", "val", "test"}
    parquet(tmp_path / "x.parquet", image=images(1), label=["a"], split=["trian"])
    with pytest.raises(DataError, match="row 0: split is 'trian'; did you mean 'train'"):
        open_source(uri)


def test_the_only_column_whose_classes_have_names_is_the_label(tmp_path):
    uri = hugging_face(tmp_path / "x.parquet", images(2), [1, 0], ["a", "b"])
    table = pq.read_table(uri)
    notes = {"huggingface": table.schema.metadata[b"huggingface"].replace(b'"label"', b'"labels"')}
    renamed = table.rename_columns(["image", "labels"]).replace_schema_metadata(notes)
    pq.write_table(renamed, uri)
    assert [file.label for file in open_source(uri).files] == ["b", "a"]


def test_rows_without_a_label_are_named(tmp_path):
    uri = hugging_face(tmp_path / "x.parquet", images(4), [0, -1, None, 2], ["a", "b"])
    source = open_source(uri)
    assert [file.path for file in source.files] == ["x.parquet/row 0"]
    assert reasons(source) == {
        "x.parquet/row 1": "label -1 is none of its 2 class names",
        "x.parquet/row 2": "label is None; expected a text or a whole number",
        "x.parquet/row 3": "label 2 is none of its 2 class names",
    }


def test_a_row_without_bytes_is_a_bad_image(tmp_path):
    source = open_source(hugging_face(tmp_path / "x.parquet", [None, b"1"], ["a", "b"]))
    with pytest.raises(ImageError, match=r"^no bytes in its column image\.bytes$"):
        source.read(source.files[0])
    assert source.read(source.files[1]) == b"1"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"1"], "name": ["a"]}, "found columns image, name; expected a label for each"),
        ({"image": [b"1"], "label": [0.5]}, "the column label holds double; expected a text or a"),
        ({"image": [b"1"], "label": [["a"]]}, "the column label holds list<.*; expected a text"),
        ({"image": [b"1"], "path": ["a"]}, "found the column path, which names files, and images"),
        (
            {"a": [b"1"], "b": [b"2"]},
            "found bytes in the columns a, b; expected one, or one called",
        ),
        ({"image": [b"1"], "label": ["a"], "Label": ["b"]}, "found 2 columns label; expected one"),
        ({"image": [b"1"], "label": ["a" * 1001]}, "the column label has a text of more than"),
        ({"a": ["1"]}, "found columns a; expected path, label"),
    ],
)
def test_files_that_are_refused(tmp_path, columns, message):
    with pytest.raises(DataError, match=rf"x\.parquet'?: {message}"):
        open_source(parquet(tmp_path / "x.parquet", **columns))


def test_paths_beside_bytes_are_refused_in_a_folder_too(tmp_path):
    parquet(tmp_path / "x.parquet", path=["1.png"], image=[b"1"], label=["a"])
    with pytest.raises(DataError, match=r"x\.parquet: found the column path, which names files"):
        open_source(str(tmp_path))


def test_a_table_of_paths_among_files_of_images_is_refused(tmp_path):
    hugging_face(tmp_path / "0.parquet", images(1), ["a"])
    parquet(tmp_path / "1.parquet", path=["1.png"], label=["a"])
    with pytest.raises(
        DataError, match=r"1\.parquet: found columns path, label; expected one with"
    ):
        open_source(str(tmp_path))


@pytest.mark.parametrize("notes", [b"{", b"[]", b'{"info": {"features": 1}}', b"[" * 99_999])
def test_notes_that_cannot_be_read_are_refused(tmp_path, notes):
    table = pa.table({"image": [b"1"], "label": [0]}, metadata={"huggingface": notes})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: its notes of Hugging Face's features cannot"):
        open_source(str(tmp_path / "x.parquet"))


def one_image_in_every_row(to: Path, image: bytes, count: int) -> str:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([image]))
    table = pa.table({"image": column, "label": ["a"] * count})
    pq.write_table(table, to, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return str(to)


def test_a_small_file_may_not_hold_more_images_than_bytes(tmp_path):
    uri = one_image_in_every_row(tmp_path / "x.parquet", b"1", 9999)
    with pytest.raises(
        DataError, match=r"x\.parquet: it has \d+ bytes, and is to hold 9,999 images"
    ):
        open_source(uri)


def test_of_a_dictionary_no_more_images_are_made_than_are_asked_for(tmp_path):
    image = bytes(1 << 20)
    rows = RowReader(pa.OSFile(one_image_in_every_row(tmp_path / "x.parquet", image, 500)))
    before = pa.total_allocated_bytes()
    assert rows.read(3) == image
    assert rows._waiting_bytes == (BATCH - 1) * len(image)
    assert pa.total_allocated_bytes() - before < 4 * BATCH * len(image)


def test_a_damaged_file_is_named(tmp_path):
    path = Path(hugging_face(tmp_path / "x.parquet", images(4), ["a"] * 4))
    hugging_face(tmp_path / "y.parquet", images(4), ["a"] * 4)
    os.truncate(path, path.stat().st_size - 9)
    with pytest.raises(DataError, match=r"x\.parquet: not a Parquet file that can be read"):
        open_source(str(tmp_path))


def test_damage_in_a_row_group_leaves_the_others(tmp_path):
    path = Path(hugging_face(tmp_path / "x.parquet", images(6), ["a"] * 6))
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    source = open_source(str(path))
    for row in (2, 3):
        with pytest.raises(ImageError, match=r"not a Parquet file|its row group ends before it"):
            source.read(source.files[row])
    others = [0, 1, 4, 5]
    assert [source.read(source.files[row]) for row in others] == [images(6)[row] for row in others]


def test_a_file_that_has_changed_gives_no_image(tmp_path):
    uri = hugging_face(tmp_path / "x.parquet", images(4), ["a"] * 4)
    source = open_source(uri)
    hugging_face(tmp_path / "x.parquet", images(1), ["a"])
    with pytest.raises(ImageError, match="the file has 1 rows"):
        source.read(source.files[3])
    os.remove(uri)
    with pytest.raises(ImageError, match="cannot be read: No such file or directory"):
        open_source(hugging_face(tmp_path / "y.parquet", [b"1"], ["a"])).reader.read(
            source.files[0].location
        )


def test_threads_that_read_in_order_decode_each_row_once(tmp_path):
    uri = hugging_face(tmp_path / "x.parquet", images(300), ["a"] * 300, rows_in_group=70)
    rows = RowReader(pa.OSFile(uri))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rows.read, range(300))) == images(300)
    assert rows._waiting == {}
    assert rows._waiting_bytes == 0


def test_rows_that_were_passed_wait_for_their_thread(tmp_path, monkeypatch):
    uri = hugging_face(tmp_path / "x.parquet", images(40), ["a"] * 40, rows_in_group=30)
    rows = RowReader(pa.OSFile(uri))
    assert rows.read(20) == b"image 20"
    decoded = rows._next
    assert [rows.read(row) for row in (3, 19, 0)] == [b"image 3", b"image 19", b"image 0"]
    assert rows._next == decoded
    assert rows.read(35) == b"image 35"
    assert rows.read(20) == b"image 20"  # decoded once more
    monkeypatch.setattr("graft.data.parquet_rows.WAITING_BYTES", 50)
    rows = RowReader(pa.OSFile(uri))
    for row in (20, 29, 5, 39, 1):
        assert rows.read(row) == f"image {row}".encode()
        assert rows._waiting_bytes < 50 + BATCH * len(b"image 00")


@pytest.mark.slow  # two CPU seconds
def test_files_in_s3(s3_store_uri, tmp_path):
    bucket = Store.open(s3_store_uri)
    for split, first in (("train", 0), ("test", 5)):
        uri = hugging_face(tmp_path / "x.parquet", images(5, first), [0, 1] * 2 + [0], ["a", "b"])
        bucket.write(f"set/data/{split}-00000-of-00001.parquet", Path(uri).read_bytes())
    source = open_source(f"{s3_store_uri}/set")
    assert [source.read(file) for file in source.files] == [*images(5, 5), *images(5)]
    assert source.splits == {"train", "test"}
    single = open_source(f"{s3_store_uri}/set/data/train-00000-of-00001.parquet")
    assert [single.read(file) for file in single.files] == images(5)
    with pytest.raises(DataError, match=r"none\.parquet': does not exist"):
        open_source(f"{s3_store_uri}/set/none.parquet")
