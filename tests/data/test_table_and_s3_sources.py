"""Image sources that are tables, or lie in S3."""

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.source_files import csv, labelled, reasons, write
from graft.data.source import open_source
from graft.errors import DataError, ImageError, StoreError
from graft.store import Store
from s3_endpoint import s3_endpoint


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
        ("path,label\n1,a\n2,ants, red\n", "line 3: 3 fields, where the header has 2; put a text"),
        ("path,label,label\n1,a,b\n", "found 2 columns label; expected one"),
        (
            "path,label\n..\\x\\1.png,a\n",
            r"line 2: there is no '\.\.\\x.*separated by /, not by \\",
        ),
        (
            "path,label\nhttps://x/1.png,a\n",
            "line 2: path is 'https://x/1.png'; only local paths and s3",
        ),
        ("path,label\nfile:///1.png,a\n", "line 2: .*only local paths and s3:// are read"),
        ('path,label\n"data:image/png;base64,AA",a\n', "line 2: .*only local paths and s3://"),
        ("path,label\nC:/x/1.png,a\n", "line 2: there is no 'C:/x.*drives have no letters"),
        ("path,label\n1\0,a\n", r"line 2: path is '1\\x00'; expected a text"),
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
    latin = pa.Array.from_buffers(pa.string(), 1, pa.array([b"k\xe4"]).buffers())
    pq.write_table(pa.table({"path": ["1"], "label": latin}), path)
    with pytest.raises(DataError, match="texts in UTF-8: 'utf-8' codec can't decode"):
        open_source(str(path))
    twice = pa.table([pa.array(["1"])] * 3, names=["path", "label", "label"])
    pq.write_table(twice, path)
    with pytest.raises(DataError, match="found 2 columns label; expected one"):
        open_source(str(path))


@pytest.mark.slow  # two CPU seconds
def test_s3_prefix_and_table(s3_store_uri, tmp_path):
    bucket = Store.open(s3_store_uri)
    for key in ("set/train/a/1.png", "set/val/a/2.png", "set/val/.hidden", "settle/b/3.png"):
        bucket.write(key, key.encode())
    _, _, name, prefix = s3_store_uri.split("/", 3)
    folder = {"Bucket": name, "Key": f"{prefix}/set/train/"}  # as consoles make them
    boto3.session.Session().client("s3").put_object(**folder, Body=b"")
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


ODD_KEYS = {
    "set/ants//1.png": "ants",
    "set//ants/2.png": "ants",
    "set/./bees/3.png": ".",
    "set/bees/../4.png": "bees",
    "set/bees/trail ": "bees",
    "set/bees /5.png": "bees ",
    "set/bees/%41 %FF +.png": "bees",
    "set/bees/#?&<.png": "bees",
    "set/bees/c\\d.png": "bees",
    "set/bees/\x01.png": "bees",
}
"""Keys that S3 takes and a store of ours would not, and the class of each."""


def test_whatever_s3_calls_an_object_is_read(tmp_path):
    with s3_endpoint({key: key.encode() for key in ODD_KEYS} | {"set/bees/": b""}):
        source = open_source("s3://bucket/set")
        read = {source.read(file).decode(): file.label for file in source.files}
        assert read == {key: label for key, label in ODD_KEYS.items() if "/." not in key}
        assert source.stray == []
        named = [key for key in ODD_KEYS if key == key.strip()]  # a table's texts are stripped
        rows = "".join(f'"s3://bucket/{key}",x\n' for key in named)
        table = open_source(csv(tmp_path, f"path,label\n{rows}"))
        assert [table.read(file).decode() for file in table.files] == named


def test_a_table_in_s3_names_keys_as_they_are():
    table = b"path,label\nants//1.png,a\n../2.png,b\n./3.png,a\n../../../4.png,b\n"
    objects = {"set//ants//1.png": b"1", "set/2.png": b"2", "set//3.png": b"3"}
    with s3_endpoint(objects | {"set//labels.csv": table}):
        source = open_source("s3://bucket/set//labels.csv")
        assert [source.read(file) for file in source.files[:3]] == [b"1", b"2", b"3"]
        with pytest.raises(ImageError, match="does not exist"):
            source.read(source.files[3])


@pytest.mark.slow  # two CPU seconds
def test_an_object_that_s3_does_not_give_is_a_bad_file():
    refusals = ["InvalidObjectState", "KeyTooLongError", "AccessDenied", "XMinioInvalidObjectName"]
    objects = {f"a/{code}": code for code in refusals} | {"a/1": b"1", "b/2/": b"an image"}
    with s3_endpoint(objects):
        source = open_source("s3://bucket")
        assert reasons(source) == {"b/2/": "its name ends with /"}
        for file in source.files[1:]:
            with pytest.raises(ImageError, match=r"^cannot be read: s3://bucket/a/\w+: "):
                source.read(file)
        assert source.read(source.files[0]) == b"1"
    with s3_endpoint({"a/1": "SignatureDoesNotMatch"}):
        source = open_source("s3://bucket")
        with pytest.raises(StoreError, match="the credentials were refused"):
            source.read(source.files[0])


def test_s3_sources_that_are_not_there(s3_store_uri):
    with pytest.raises(DataError, match="found 0 files and no class folder"):
        open_source(f"{s3_store_uri}/nothing")
    with pytest.raises(DataError, match=r"nothing\.csv': does not exist"):
        open_source(f"{s3_store_uri}/nothing.csv")
    with pytest.raises(StoreError, match="bucket 'graft-no-such-bucket' does not exist"):
        open_source("s3://graft-no-such-bucket/x")
