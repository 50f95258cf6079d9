"""Labels in a table of their own: `--labels`."""

import pytest

from data.source_files import csv, hugging_face, labelled, reasons, write
from graft.data.importing import import_dataset
from graft.data.manifest import SkippedFile, open_dataset
from graft.data.source import open_source
from graft.errors import DataError, ImageError
from graft.store import Store, sha256


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_labels_of_a_flat_folder(tmp_path):
    root = write(tmp_path / "flat", "1.png", "2.png")
    source = open_source(root, labels=csv(tmp_path, "path,label\n./1.png,a\n2.png,b\n1.png,a\n"))
    assert labelled(source) == {"1.png": ("train", "a"), "2.png": ("train", "b")}
    assert source.splits == set()
    assert source.notes == [f"labels are those of {tmp_path}/labels.csv, by path"]


def test_labels_take_the_place_of_folders_whose_splits_stay(tmp_path):
    root = write(tmp_path / "set", "train/a/1.png", "train/b/2.png", "val/3.png")
    rows = "train/a/1.png,x\ntrain/b/2.png,x\nval/3.png,y\n"
    source = open_source(root, labels=csv(tmp_path, f"path,label\n{rows}"))
    assert labelled(source) == {
        "train/a/1.png": ("train", "x"),
        "train/b/2.png": ("train", "x"),
        "val/3.png": ("val", "y"),
    }
    assert source.splits == {"train", "val"}


def test_a_table_may_choose_the_splits(tmp_path):
    root = write(tmp_path / "set", "a/1.png", "b/2.png")
    table = csv(tmp_path, "path,label,split\na/1.png,x,val\nb/2.png,y,train\n")
    source = open_source(root, labels=table)
    assert labelled(source) == {"a/1.png": ("val", "x"), "b/2.png": ("train", "y")}
    assert source.splits == {"train", "val"}


def test_a_table_may_lie_among_the_images(s3_store_uri, tmp_path):
    root = write(tmp_path / "flat", "1.png", "2.png")
    table = csv(tmp_path / "flat", "path,label\n1.png,a\n2.png,b\n")
    bucket = Store.open(s3_store_uri)
    bucket.write("flat/1.png", b"1")
    bucket.write("flat/labels.csv", b"path,label\n1.png,a\n")
    for uri, labels in (
        (root, table),
        (f"{s3_store_uri}/flat", f"{s3_store_uri}/flat/labels.csv"),
    ):
        source = open_source(uri, labels=labels)
        assert source.stray == []
        assert "a" in [file.label for file in source.files]


def test_rows_and_images_without_the_other_are_named(tmp_path):
    root = write(tmp_path / "set", "1.png", "2.png")
    table = csv(tmp_path, "path,label\n1.png,a\n3.png,b\n")
    source = open_source(root, labels=table)
    assert labelled(source) == {"1.png": ("train", "a")}
    assert reasons(source) == {
        "2.png": f"no row of {table} names it",
        "3.png": f"{table} names it (line 3), and the source has it not",
    }


def test_labels_of_other_layouts(tmp_path):
    paths = csv(tmp_path, "path\n1.png\n", "paths.csv")
    parquet = hugging_face(tmp_path / "x.parquet", [b"1"], [None])
    for source, path in ((paths, "1.png"), (parquet, "x.parquet/row 0")):
        opened = open_source(source, labels=csv(tmp_path, f"path,label\n{path},a\n"))
        assert labelled(opened) == {path: ("train", "a")}


def test_labels_by_digest(tmp_path):
    root = write(tmp_path / "set", "1.png", "2.png", "3.png")
    digests = [sha256(name.encode()) for name in ("1.png", "2.png", "x")]
    rows = f"{digests[0].upper()},a,val\n{digests[1]},b,train\n{digests[2]},b,train\n"
    source = open_source(root, labels=csv(tmp_path, f"sha256,label,split\n{rows}"))
    first, _, third = source.files
    relabelled = source.labelled(first, digests[0])
    assert (relabelled.label, relabelled.split) == ("a", "val")
    with pytest.raises(ImageError, match=r"no row of .*labels\.csv has its SHA-256, 0"):
        source.labelled(third, "0" * 64)
    unmatched = source.rows_without_image(digests[:2])
    assert unmatched == [SkippedFile(path=digests[2], reason=unmatched[0].reason)]
    assert unmatched[0].reason.endswith("names it (line 4), and the source has it not")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\n1.png,a\n./1.png,b\n",
            r"\./1\.png is 'a' \(line 2\) and 'b' \(line 3\); lea",
        ),
        (
            "path,label,split\n1.png,a,val\n1.png,a,test\n",
            r"1\.png is 'a' in val \(line 2\) and 'a' in t",
        ),
        ("file,label\n1.png,a\n", "found columns file, label; expected path or sha256, and label"),
        ("path,class\n1.png,a\n", "found columns path, class; expected label"),
        ("path,label\n", "found no row"),
        ("path,label\n1.png,\n", "line 2: label is ''; expected a text"),
        ("sha256,label\n12ab,a\n", "line 2: sha256 is '12ab'; expected 64 hexadecimal digits"),
        ("path,label\nset/1.png,a\n", "none of its 1 paths, such as 'set/1.png', is one of the so"),
    ],
)
def test_tables_with_mistakes(tmp_path, text, message):
    root = write(tmp_path / "set", "1.png")
    with pytest.raises(DataError, match=rf"labels\.csv: {message}"):
        open_source(root, labels=csv(tmp_path, text))


def test_labels_that_are_no_table_or_not_there(tmp_path):
    root = write(tmp_path / "set", "1.png")
    with pytest.raises(DataError, match=r"--labels x\.json: expected a table, \.csv or \.parquet"):
        open_source(root, labels="x.json")
    with pytest.raises(DataError, match=r"x\.csv': cannot be read: No such file"):
        open_source(root, labels=str(tmp_path / "x.csv"))


@pytest.mark.parametrize("key", ["path", "sha256"])
def test_relabelled_images_are_the_version_of_folders_with_these_labels(
    store, class_folders, tmp_path, key
):
    root = class_folders({"a": 3, "b": 3})
    named = import_dataset(store, str(root), "x").manifest
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = []
    for path in sorted(root.rglob("*.png")):
        moved = flat / f"{path.parent.name}{path.name}"
        data = path.read_bytes()
        moved.write_bytes(data)
        rows.append(f"{moved.name if key == 'path' else sha256(data)},{path.parent.name}\n")
    table = csv(tmp_path, f"{key},label\n{''.join(rows)}")
    assert import_dataset(store, str(flat), "x", labels=table).manifest.version == named.version

    part = csv(tmp_path, f"{key},label\n{''.join(rows[1:])}{'0' * 64},a\n", "part.csv")
    with pytest.raises(DataError, match="2 of 7 files cannot be used") as caught:
        import_dataset(store, str(flat), "x", labels=part)
    assert "names it (line 7), and the source has it not" in str(caught.value)
    manifest = import_dataset(store, str(flat), "x", labels=part, skip_bad=True).manifest
    assert [file.path for file in manifest.skipped][-1] == "0" * 64
    assert manifest.images == 5
    assert open_dataset(store, "x").manifest.classes == ("a", "b")
