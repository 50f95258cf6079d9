"""What is predicted: every kind of source, in an order that stays."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from colours import draw_colours
from data.source_files import hugging_face, tar, tar_bytes
from graft.data.file_reader import FileReader
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.errors import DataError, GraftError
from graft.prediction.inputs import Input, list_inputs, read_part, write_inputs
from graft.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files in folders without a meaning, with what people and systems leave there."""
    for name in ("b.jpg", "a/2.jpg", "a/10.jpg", "notes.txt", ".hidden/c.jpg", "Thumbs.db"):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "files"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def s3_store(s3_store_uri: str) -> Store:
    return Store.open(s3_store_uri)


def paths(inputs: Iterable[Input]) -> list[str]:
    return [file.path for file in inputs]


def test_a_folder_with_all_below_it(store: Store, folder: Path) -> None:
    inputs = list(list_inputs(store, str(folder)))
    assert paths(inputs) == ["a/10.jpg", "a/2.jpg", "b.jpg", "notes.txt"]
    assert all(Path(str(file.location)).is_absolute() for file in inputs)


@pytest.mark.slow  # a CPU second
def test_tables_and_lists_keep_their_order(s3_store: Store, folder: Path) -> None:
    names = ["b.jpg", "a/2.jpg", f"{s3_store.uri}/c.jpg", "b.jpg"]
    (folder / "list.txt").write_text("# the archive\n" + "\n".join(names) + "\n\n")
    (folder / "table.csv").write_text("Path,note\n" + "".join(f"{name},x\n" for name in names))
    pq.write_table(pa.table({"path": names}), folder / "table.parquet")
    for source in ("list.txt", "table.csv", "table.parquet"):
        inputs = list(list_inputs(s3_store, str(folder / source)))
        assert paths(inputs) == names
        assert [file.location for file in inputs[:3]] == [
            str(folder / "b.jpg"),
            str(folder / "a" / "2.jpg"),
            f"{s3_store.uri}/c.jpg",
        ]


def test_a_list_breaks_at_the_ends_of_lines_alone(store: Store, tmp_path: Path) -> None:
    names = ["a\u2028b.jpg", "#1.jpg", "c\x0cd.jpg"]
    (tmp_path / "list.txt").write_bytes(("# two\r\n#\r\n" + "\r\n".join(names)).encode())
    assert paths(list_inputs(store, str(tmp_path / "list.txt"))) == names


@pytest.mark.slow  # a CPU second
def test_a_bucket_that_cannot_be_is_said_at_once(s3_store: Store, tmp_path: Path) -> None:
    for bucket in ("Bad_Bucket!", "nobody-has-this"):
        (tmp_path / "list.txt").write_text(f"s3://{bucket}/k\n")
        with pytest.raises(GraftError, match=bucket):
            list(list_inputs(s3_store, str(tmp_path / "list.txt")))


def test_the_home_folder(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "list.txt").write_text("b.jpg\n")
    (listed,) = list_inputs(store, "~/list.txt")
    assert listed.location == str(folder / "b.jpg")


def test_a_name_that_is_not_utf_8_is_listed_and_not_recorded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in (b"a.jpg", b"b\xff.jpg"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "files"), name))).write_bytes(b"x")
    inputs = list(list_inputs(store, str(tmp_path / "files")))
    assert [(file.path, file.location is None) for file in inputs] == [
        ("a.jpg", False),
        ("b?.jpg", True),
    ]
    assert write_inputs(tmp_path / "inputs.parquet", inputs, 10) == 2
    assert read_part(pq.ParquetFile(tmp_path / "inputs.parquet"), 0) == inputs


def test_a_dataset_version_with_all_its_splits(store: Store, tmp_path: Path) -> None:
    import_dataset(store, str(draw_colours(tmp_path / "images", 3, 2)), "colours", test_fraction=0)
    inputs = list(list_inputs(store, "dataset://colours"))
    dataset = open_dataset(store, "colours")
    images = [image for split in ("train", "val") for image in dataset.images(split)]
    assert [file.location for file in inputs] == [image.sha256 for image in images]


def test_a_prefix(s3_store: Store, folder: Path) -> None:
    for key in ("archive/b.jpg", "archive/a/1.jpg", "archive/.x/2.jpg", "other/3.jpg"):
        s3_store.write(key, b"four")
    inputs = list(list_inputs(s3_store, f"{s3_store.uri}/archive"))
    assert paths(inputs) == ["a/1.jpg", "b.jpg"]
    assert [file.size for file in inputs] == [4, 4]


def test_files_that_hold_images_are_their_images(store: Store, tmp_path: Path) -> None:
    images = [b"1", b"2", b"3"]
    hugging_face(tmp_path / "p" / "train.parquet", images[:2], [None, None])
    hugging_face(tmp_path / "p" / "val.parquet", images[2:], [5], ["a"], split=["no split"])
    tar(tmp_path / "t" / "0.tar", {"1.jpg": b"1", "2.png": b"2"})
    tar(tmp_path / "t" / "1.tar", {"3.jpg": b"3"})
    (tmp_path / "p" / "README.md").touch()
    of_parquet = ["train.parquet/row 0", "train.parquet/row 1", "val.parquet/row 0"]
    of_tars = ["0.tar/1.jpg", "0.tar/2.png", "1.tar/3.jpg"]
    for source, names in (
        ("p", of_parquet),
        ("p/train.parquet", of_parquet[:2]),
        ("t", of_tars),
        ("t/0.tar", of_tars[:2]),
    ):
        inputs = list(list_inputs(store, str(tmp_path / source)))
        assert paths(inputs) == names
        write_inputs(tmp_path / "inputs.parquet", inputs, part_images=10)
        # As a process reads them that has nothing but the list.
        reader, listed = FileReader(), read_part(pq.ParquetFile(tmp_path / "inputs.parquet"), 0)
        read = [reader.read(str(file.location), file.size) for file in listed]
        assert read == images[: len(names)]


@pytest.mark.slow  # a CPU second
def test_a_prefix_of_files_that_hold_images(s3_store: Store) -> None:
    s3_store.write("set/0.tar", tar_bytes({"1.jpg": b"1"}))
    s3_store.write("set/LICENSE", b"")
    (listed,) = list_inputs(s3_store, f"{s3_store.uri}/set")
    assert (listed.path, FileReader().read(str(listed.location))) == ("0.tar/1.jpg", b"1")


def test_among_images_files_that_hold_others_are_files(store: Store, folder: Path) -> None:
    tar(folder / "a" / "x.tar", {"1.jpg": b"1"})
    assert paths(list_inputs(store, str(folder)))[2] == "a/x.tar"
    (folder / "only").mkdir()
    (folder / "only" / "notes.txt").touch()
    assert paths(list_inputs(store, str(folder / "only"))) == ["notes.txt"]


def test_parts_are_row_groups(store: Store, folder: Path, tmp_path: Path) -> None:
    inputs = list_inputs(store, str(folder))
    assert write_inputs(tmp_path / "inputs.parquet", inputs, part_images=3) == 4
    file = pq.ParquetFile(tmp_path / "inputs.parquet")
    parts = [read_part(file, number) for number in range(file.num_row_groups)]
    assert [paths(part) for part in parts] == [
        ["a/10.jpg", "a/2.jpg", "b.jpg"],
        ["notes.txt"],
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nothing", None, "does not exist"),
        ("table.csv", "image\na.jpg\n", "expected path"),
        ("list.txt", "# nothing\n", "found no file"),
        ("photograph.jpg", "x", "is a file"),
        ("x.tar", "x", "x.tar: not a whole tar file"),
        ("table.parquet", "PAR", "not a Parquet file"),
        ("list.txt", "a.jpg\nb\0.jpg\n", r"list.txt: line 2: path is 'b\\x00.jpg'"),
        ("list.txt", "s3:///k\n", "line 1: path is 's3:///k'; expected s3://BUCKET/KEY"),
        ("list.txt", "https://example.org/a.jpg", "line 1: .*; only local paths and s3://"),
        ("list.txt", "C:\\photos\\a.jpg", "line 1: there is no 'C:.*drives have no letters"),
    ],
)
def test_a_source_that_is_none(
    store: Store, tmp_path: Path, name: str, text: str | None, expected: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=expected):
        list(list_inputs(store, str(tmp_path / name)))


def test_an_empty_folder_and_a_dataset_that_is_not_there(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no file"):
        list(list_inputs(store, str(tmp_path / "empty")))
    with pytest.raises(GraftError, match="nothing"):
        list(list_inputs(store, "dataset://nothing"))
