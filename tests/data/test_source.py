import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graft.data.source import ImageSource, open_source
from graft.errors import DataError, ImageError, StoreError
from graft.store import Store


def write(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return str(root)


def labelled(source: ImageSource) -> dict[str, tuple[str, str]]:
    return {file.path: (file.split, file.label) for file in source.files}


def reasons(source: ImageSource) -> dict[str, str]:
    return {file.path: file.reason for file in source.stray}


def test_a_folder_for_each_class(tmp_path):
    source = open_source(write(tmp_path, "b/1.png", "a/deep/er/2.png", "a/1.png"))
    assert labelled(source) == {
        "a/1.png": ("train", "a"),
        "a/deep/er/2.png": ("train", "a"),
        "b/1.png": ("train", "b"),
    }
    assert source.splits == set()
    assert source.read(source.files[1]) == b"a/deep/er/2.png"


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path, val):
    source = open_source(
        write(tmp_path, "train/a/1.png", f"{val}/a/1.png", "testing/b/c/1.png", "Training/b/1.png")
    )
    assert labelled(source) == {
        "train/a/1.png": ("train", "a"),
        "Training/b/1.png": ("train", "b"),
        f"{val}/a/1.png": ("val", "a"),
        "testing/b/c/1.png": ("test", "b"),
    }
    assert source.splits == {"train", "val", "test"}


def test_classes_may_have_the_names_of_splits(tmp_path):
    source = open_source(
        write(tmp_path, "car/1.png", "plane/1.png", "train/1.png", "train/2/3.png")
    )
    assert {file.label for file in source.files} == {"car", "plane", "train"}
    assert source.splits == set()


def test_hidden_files_are_no_part_of_it(tmp_path):
    root = write(
        tmp_path, "a/1.png", "a/.DS_Store", "a/Thumbs.db", ".git/x/y", "__MACOSX/a/1.png", ".z"
    )
    source = open_source(root)
    assert labelled(source) == {"a/1.png": ("train", "a")}
    assert source.stray == []


def test_files_without_a_label_are_named(tmp_path):
    source = open_source(write(tmp_path, "train/a/1.png", "val/a/1.png", "val/lost.png", "x/y.png"))
    assert reasons(source) == {
        "val/lost.png": "outside any class folder",
        "x/y.png": "outside the split folders",
    }
    (tmp_path / "train" / "empty").mkdir()
    assert reasons(open_source(str(tmp_path)))["train/empty/"] == "an empty class folder"


def test_names_that_are_not_utf8_are_named(tmp_path):
    root = write(tmp_path, "a/1.png")
    Path(os.fsdecode(os.fsencode(root) + b"/a/\xff.png")).write_bytes(b"")
    assert reasons(open_source(root)) == {"a/?.png": "its name is not UTF-8"}


def test_links_are_followed(tmp_path):
    write(tmp_path / "elsewhere", "1.png")
    write(tmp_path / "source", "b/1.png")
    (tmp_path / "source" / "a").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path / "source"))
    assert labelled(source) == {"a/1.png": ("train", "a"), "b/1.png": ("train", "b")}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["1.png", "2.png"], "found 2 files and no class folder with a file; expected SRC/CLASS"),
        ([], "found 0 files and no class folder"),
        (["val/a/1.png", "test/a/1.png"], "found test, val but no train; expected SRC/CLASS"),
    ],
)
def test_layouts_that_cannot_be_read(tmp_path, paths, message):
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path, *paths))


@pytest.mark.parametrize("folders", [["val"], ["val/a", "val/b"]])
def test_an_empty_split_folder(tmp_path, folders):
    root = write(tmp_path, "train/a/1.png", "test/a/1.png")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="the val folder holds no image"):
        open_source(root)


@pytest.mark.parametrize("name", ["missing", "missing.csv", "missing.parquet"])
def test_a_source_that_is_not_there(tmp_path, name):
    with pytest.raises(DataError, match=rf"source '.*{name}'"):
        open_source(str(tmp_path / name))


def test_a_source_that_is_no_table(tmp_path):
    (tmp_path / "labels.txt").write_text("x")
    with pytest.raises(DataError, match=r"is a file; expected a directory, \.csv or \.parquet"):
        open_source(str(tmp_path / "labels.txt"))


def test_files_that_cannot_be_read(tmp_path):
    root = write(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone")
    source = open_source(root)
    with pytest.raises(ImageError, match="cannot be read: No such file or directory"):
        source.read(source.files[1])


def csv(root: Path, text: str, name: str = "labels.csv") -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


def test_csv(tmp_path):
    outside = write(tmp_path / "outside", "3.png")
    write(tmp_path / "in", "img/1.png", "2.png")
    table = csv(
        tmp_path / "in",
        f'\ufeffLabel, path,other\ncat,img/1.png,x\n"dog, big",2.png,\n7,{outside}/3.png,y\n',
    )
    source = open_source(table)
    assert [file.label for file in source.files] == ["cat", "dog, big", "7"]
    assert [source.read(file) for file in source.files] == [b"img/1.png", b"2.png", b"3.png"]
    assert [file.path for file in source.files] == ["img/1.png", "2.png", f"{outside}/3.png"]
    assert source.splits == set()


def test_csv_with_splits(tmp_path):
    source = open_source(csv(tmp_path, "path,label,split\n1,a,Train\n2,a,valid\n3,b,testing\n"))
    assert [file.split for file in source.files] == ["train", "val", "test"]
    assert source.splits == {"train", "val", "test"}


def test_parquet(tmp_path):
    write(tmp_path, "1.png", "2.png")
    table = {
        "path": ["1.png", "2.png"],
        "label": pa.array(["a", "b"]).dictionary_encode(),
        "split": ["train", "val"],
    }
    pq.write_table(pa.table(table), tmp_path / "labels.parquet")
    source = open_source(str(tmp_path / "labels.parquet"))
    assert labelled(source) == {"1.png": ("train", "a"), "2.png": ("val", "b")}
    assert source.read(source.files[0]) == b"1.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1,a\n", "found columns file, label; expected path, label"),
        ("", "found columns none; expected path, label"),
        ("path,label\n", "found no row"),
        ("path,label\n1,a\n2, \n", "line 3: label is ' '; expected a text"),
        ("path,label\n1,a\n2\n", "line 3: label is None"),
        ("path,label\n,a\n", "line 2: path is ''"),
        ("path,label,split\n1,a,trian\n", "line 2: split is 'trian'; did you mean 'train'"),
        ("path,label,split\n1,a,\n", "line 2: split is ''"),
        ("path,label\n1,a\n./1,b\n", r"\./1 is labelled 'a' \(line 2\) and 'b' \(line 3\)"),
        ('path,label\n1,"a', "not a CSV file in UTF-8"),
    ],
)
def test_tables_with_mistakes(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_source(csv(tmp_path, text))


def test_parquet_with_mistakes(tmp_path):
    path = tmp_path / "labels.parquet"
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not a Parquet file"):
        open_source(str(path))
    pq.write_table(pa.table({"path": ["1", "2"], "label": ["a", None]}), path)
    with pytest.raises(DataError, match="row 1: label is None; expected a text or a whole number"):
        open_source(str(path))


def test_s3_prefix_and_table(s3_store_uri, tmp_path):
    bucket = Store.open(s3_store_uri)
    for key in ("set/train/a/1.png", "set/val/a/2.png", "set/val/.hidden", "settle/b/3.png"):
        bucket.write(key, key.encode())
    bucket.write("set/train/", b"")
    for uri in (f"{s3_store_uri}/set", f"{s3_store_uri}/set/"):
        source = open_source(uri)
        assert labelled(source) == {
            "train/a/1.png": ("train", "a"),
            "val/a/2.png": ("val", "a"),
        }
        assert source.read(source.files[1]) == b"set/val/a/2.png"

    rows = f"path,label\ntrain/a/1.png,x\n../settle/b/3.png,y\n{s3_store_uri}/set/val/a/2.png,z\n"
    bucket.write("set/labels.csv", rows.encode())
    source = open_source(f"{s3_store_uri}/set/labels.csv")
    assert [source.read(file).decode() for file in source.files] == [
        "set/train/a/1.png",
        "settle/b/3.png",
        "set/val/a/2.png",
    ]
    local = open_source(csv(tmp_path, f"path,label\n{s3_store_uri}/set/val/a/2.png,z\n"))
    assert local.read(local.files[0]) == b"set/val/a/2.png"
    bucket.delete("set/val/a/2.png")
    with pytest.raises(ImageError, match="does not exist"):
        local.read(local.files[0])


def test_s3_sources_that_are_not_there(s3_store_uri):
    with pytest.raises(DataError, match="found 0 files and no class folder"):
        open_source(f"{s3_store_uri}/nothing")
    with pytest.raises(DataError, match=r"nothing\.csv' does not exist"):
        open_source(f"{s3_store_uri}/nothing.csv")
    with pytest.raises(StoreError, match="bucket 'graft-no-such-bucket' does not exist"):
        open_source("s3://graft-no-such-bucket/x")
