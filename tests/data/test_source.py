import os
import socket
import unicodedata
from functools import partial
from pathlib import Path

import pytest

from data.source_files import csv, labelled, reasons, write
from graft.data.source import open_source
from graft.data.walk import IGNORED
from graft.errors import DataError, ImageError
from graft.store import Store


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


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_systems_and_storage_boxes_leave_is_ignored_and_said(tmp_path, name):
    name = name.swapcase()
    root = write(tmp_path, "a/1.png", f"a/{name}/1.png/thumb.jpg", f"{name}/old.jpg", "b/1.png")
    source = open_source(root)
    assert labelled(source) == {"a/1.png": ("train", "a"), "b/1.png": ("train", "b")}
    assert source.stray == []
    (note,) = source.notes
    assert note.endswith(f"ignored: {name} (2)")


@pytest.mark.slow  # a CPU second
def test_ignored_names_of_an_s3_prefix_are_said(s3_store_uri):
    bucket = Store.open(s3_store_uri)
    for key in ("a/1.png", "a/@eaDir/1.png/t.jpg", "a/@eaDir/2.png/t.jpg", "b/1.png", "b/.z"):
        bucket.write(key, b"x")
    source = open_source(s3_store_uri)
    assert len(source.files) == 2
    assert source.notes[0].endswith("ignored: .* (1), @eaDir (1)")


def test_a_link_to_an_ancestor_is_named_and_not_followed(tmp_path):
    root = write(tmp_path / "source", "a/1.png", "b/1.png")
    (tmp_path / "source" / "a" / "up").symlink_to("..")
    (tmp_path / "source" / "b" / "up").symlink_to("../..")
    source = open_source(root)
    assert labelled(source) == {"a/1.png": ("train", "a"), "b/1.png": ("train", "b")}
    assert reasons(source) == {
        "a/up": "a link to the source itself, which is read already",
        "b/up": f"a link to {tmp_path}, in which the source lies",
    }


def test_a_linked_folder_is_read_once(tmp_path):
    write(tmp_path / "elsewhere", "deep/1.png")
    root = write(tmp_path / "source", "a/1.png", "b/1.png")
    for label in "ab":
        (tmp_path / "source" / label / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to("..")
    (tmp_path / "source" / "b" / "as").symlink_to("../a")
    source = open_source(root)
    assert set(labelled(source)) == {"a/1.png", "a/more/deep/1.png", "b/1.png"}
    assert reasons(source) == {
        "a/more/deep/up": "a link to a/more, which is read already",
        "b/as": "a link to a, which is read already",
        "b/more": "a link to a/more, which is read already",
    }


def test_a_file_that_links_give_two_classes_is_refused(tmp_path):
    root = write(tmp_path / "source", "a/1.png", "b/1.png")
    (tmp_path / "source" / "b" / "2.png").symlink_to("../a/1.png")
    with pytest.raises(DataError, match=r"a/1\.png and b/2\.png are one file, by links, labelled"):
        open_source(root)


def test_a_long_walk_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("graft.data.walk.LISTED_EACH", 2)
    counts = []
    open_source(
        write(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(3))), counts.append
    )
    assert counts == [2, 4, 6]


@pytest.mark.parametrize(
    ("paths", "hint"),
    [
        (("train/a/1", "train/b/1", "dev/a/1", "dev/b/1"), "call dev val"),
        (("train/a/1", "train/b/1", "Eval/a/1"), "call Eval val"),
        (("train/a/1", "train/b/1", "holdout/1"), "call holdout test"),
        (("trn/a/1", "trn/b/1", "tst/a/1", "tst/b/1"), "call trn train; call tst test"),
        (("trian/a/1", "trian/b/1", "vall/a/1", "vall/b/1"), "did you mean 'train'"),
        (("one/a/1", "one/b/1", "two/a/1", "two/b/1"), "known: train, val, test"),
        (("train/a/1", "train/b/1", "unlabelled/1"), "train, unlabelled hold folders in"),
        (("train/a/1", "train/b/1", "train/c/1", "extra/a/1", "extra/b/1"), "extra, train hold"),
        (("tr/tr/a/1", "tr/tr/b/1", "te/te/a/1", "te/te/b/1"), "call te test; call tr train"),
    ],
)
def test_splits_by_other_names_are_refused(tmp_path, paths, hint):
    with pytest.raises(DataError) as caught:
        open_source(write(tmp_path, *paths))
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/images/1", "dog/images/1"),
        ("cat/2019/1", "cat/2020/1", "dog/2020/1"),
        ("cat/1", "dog/1", "dev/1"),
        ("cat/old/1", "cat/new/1", "dog/1"),
        ("train/1", "train/steam/1", "train/electric/1", "bus/1"),
    ],
)
def test_folders_within_classes_are_no_splits(tmp_path, paths):
    assert len(open_source(write(tmp_path, *paths)).files) == len(paths)


def test_a_split_without_class_folders_is_named_file_by_file(tmp_path):
    source = open_source(write(tmp_path, "train/a/1", "train/b/1", "test/1.png"))
    assert reasons(source) == {"test/1.png": "outside any class folder"}
    assert source.splits == {"train"}


def test_files_in_folders_below_a_class_are_said(tmp_path):
    source = open_source(write(tmp_path, "train/a/x/1", "train/a/y/2", "train/b/1"))
    assert source.notes == ["in folders below a class's folder, and of that class: 2 files"]
    assert open_source(write(tmp_path / "flat", "a/1", "b/1")).notes == []


@pytest.mark.parametrize("name", ["FOUND.017", "1.jpg@SynoResource", "Recycled", "@__thumb"])
def test_system_names_in_any_case_and_number_are_ignored(tmp_path, name):
    source = open_source(write(tmp_path, f"a/{name}/1", "a/1", "b/1"))
    assert set(labelled(source)) == {"a/1", "b/1"}


@pytest.mark.parametrize(
    "names", [("ant", "Ant"), ("ant", "ant "), ("a b", "a\u00a0b"), ("x", "x\u200b"), ("ﬁ", "fi")]
)
def test_classes_that_look_like_one_are_said(tmp_path, names):
    source = open_source(write(tmp_path, *(f"{name}/1" for name in names), "other/1"))
    assert len({file.label for file in source.files}) == 3
    (note,) = source.notes
    assert note.endswith(", ".join(map(repr, sorted(names))))


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x9b"])
def test_a_class_with_a_control_character_is_refused(tmp_path, name):
    for uri in (write(tmp_path, f"{name}/1", "b/1"), csv(tmp_path, f'path,label\n1,"{name}"\n')):
        with pytest.raises(DataError, match="with a control character; rename it"):
            open_source(uri)


KAEFER = unicodedata.normalize("NFC", "Käfer"), unicodedata.normalize("NFD", "Käfer")


def test_names_equal_in_unicode_are_one_class(tmp_path):
    composed, decomposed = KAEFER
    root = write(
        tmp_path, f"train/{composed}/1", f"train/{decomposed}/2", f"val/{decomposed}/1", "train/b/1"
    )
    source = open_source(root)
    assert {file.label for file in source.files} == {composed, "b"}
    assert source.notes == [
        f"written in several Unicode forms, and taken for one class: {composed}"
    ]
    table = csv(tmp_path, f"path,label\n1,{composed}\n2,{decomposed}\n1,{decomposed}\n")
    assert {file.label for file in open_source(table).files} == {composed}


def special(folder: Path, kind: str) -> Path:
    path = folder / "x"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x")  # a path of 107 bytes at most
    return path


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a folder"])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = special(tmp_path, kind)
    source = open_source(csv(tmp_path, "path,label\nx,a\n"))
    with pytest.raises(ImageError, match=rf"^{kind}, not a regular file$"):
        source.read(source.files[0])
    path.rename(tmp_path / "y.csv")
    message = "found 0 files" if kind == "a folder" else rf"y\.csv': {kind}, not a regular file"
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "y.csv"))


@pytest.mark.slow  # two CPU seconds
def test_what_is_too_large_is_refused_unread(tmp_path, monkeypatch, s3_store_uri):
    monkeypatch.setattr("graft.data.file_reader.MAX_BYTES", 1 << 20)
    root = write(tmp_path, "a/1", "b/1")
    os.truncate(tmp_path / "a" / "1", 3 << 20)
    bucket = Store.open(s3_store_uri)
    bucket.write("a/1", bytes(3 << 20))
    bucket.write("b/1", b"x")
    table = csv(tmp_path, f"path,label\n{s3_store_uri}/a/1,a\n{s3_store_uri}/b/1,b\n")
    for uri in (root, s3_store_uri, table):
        source = open_source(uri)
        for opened in source.reader._buckets.values():
            monkeypatch.setattr(opened, "read", partial(unread, opened.read))
        with pytest.raises(ImageError, match=r"^more than 1 MB$"):
            source.read(source.files[0])
        assert source.read(source.files[1])
    bucket.write("table.csv", bytes(3 << 20))
    with pytest.raises(DataError, match=r"table\.csv': more than 1 MB"):
        open_source(f"{s3_store_uri}/table.csv")


def unread(read, key, limit):
    assert not key.endswith("a/1"), "read"
    return read(key, limit)


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


@pytest.mark.parametrize("uri", ["https://x/photos", "file:///x", "gs://x/labels.csv"])
def test_a_source_elsewhere(uri):
    with pytest.raises(DataError, match="only local paths and s3:// are read"):
        open_source(uri)


@pytest.mark.parametrize("name", ["missing", "missing.csv", "missing.parquet"])
def test_a_source_that_is_not_there(tmp_path, name):
    with pytest.raises(DataError, match=rf"source '.*{name}'"):
        open_source(str(tmp_path / name))


def test_a_source_that_is_no_table(tmp_path):
    (tmp_path / "labels.txt").write_text("x")
    with pytest.raises(DataError, match="is a file; expected a directory, an s3:// prefix, or"):
        open_source(str(tmp_path / "labels.txt"))


def test_files_that_cannot_be_read(tmp_path):
    root = write(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone")
    source = open_source(root)
    with pytest.raises(ImageError, match="cannot be read: No such file or directory"):
        source.read(source.files[1])
