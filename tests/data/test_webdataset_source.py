"""Sources that are WebDataset's tar files."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from data.source_files import labelled, reasons, tar, tar_bytes, write
from graft.data.source import open_source
from graft.errors import DataError, ImageError
from graft.store import Store


def test_samples_are_members_of_one_key(tmp_path):
    members = {
        "./a/1.jpg": b"one",
        "./a/1.cls": "ant\n",
        "2.json": json.dumps({"label": 7, "width": 8}),
        "2.PNG": b"two",
        "2.mask.png": b"no image of its own",
        "2.txt": "a caption",
        "3.txt": "bee",
        "3.jpeg": b"three",
        "._3.jpeg": b"what macOS leaves",
    }
    source = open_source(tar(tmp_path / "x.tar", members))
    assert labelled(source) == {
        "x.tar/a/1.jpg": ("train", "ant"),
        "x.tar/2.PNG": ("train", "7"),
        "x.tar/3.jpeg": ("train", "bee"),
    }
    assert [source.read(file) for file in source.files] == [b"one", b"two", b"three"]
    assert source.stray == []


def test_a_folder_of_shards_with_splits(tmp_path):
    for shard in ("train-0", "train-1", "validation-0"):
        tar(tmp_path / f"{shard}.tar", {f"{shard}.jpg": shard.encode(), f"{shard}.cls": "0"})
    write(tmp_path, "train-0.idx", "README.md")
    source = open_source(str(tmp_path))
    assert [(file.path, file.split) for file in source.files] == [
        ("train-0.tar/train-0.jpg", "train"),
        ("train-1.tar/train-1.jpg", "train"),
        ("validation-0.tar/validation-0.jpg", "val"),
    ]
    assert source.splits == {"train", "val"}


def test_members_that_are_no_labelled_image_are_named(tmp_path):
    members = {
        "1.jpg": b"1",
        "2.cls": "a",
        "3.jpg": b"3",
        "3.png": b"3",
        "3.cls": "a",
        "4.jpg": b"4",
        "4.txt": "two dogs\nin the snow",
        "5.jpg": b"5",
        "5.json": "{}",
        "6.jpg": b"6",
        "6.json": "[" * 99_999,
        "7.jpg": b"7",
        "7.cls": b"\xff",
        "8": b"8",
        "\udcff.jpg": b"9",
    }
    source = open_source(tar(tmp_path / "x.tar", members))
    assert source.files == []
    found = reasons(source)
    assert found.pop("x.tar/1").startswith("no label: expected a member KEY.cls, KEY.json with")
    assert found.pop("x.tar/2") == "a sample of cls; expected one image"
    assert found.pop("x.tar/3") == "a sample of jpg, png, cls; expected one image"
    assert found.pop("x.tar/4").endswith("found txt (a caption, and not the name of a class)")
    assert found.pop("x.tar/5").endswith("found json (no label in it)")
    assert found.pop("x.tar/6").endswith("found json (nested too deeply)")
    assert "found cls ('utf-8' codec can't decode" in found.pop("x.tar/7")
    assert found == {
        "x.tar/8": "its name has no extension, by which WebDataset goes",
        "x.tar/?.jpg": "its name is not UTF-8",
    }


def test_links_are_no_members_of_a_sample(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    assert "a link, a device" in reasons(open_source(str(tmp_path / "x.tar")))["x.tar/1.jpg"]


GOOD = tar_bytes({"1.jpg": bytes(700), "1.cls": "a", "2.jpg": bytes(700), "2.cls": "b"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(GOOD), "it is compressed, .*; unpack it to a plain .tar"),
        (GOOD[:1000], "a member ends beyond it"),
        (GOOD[:1600], "comes neither member nor end"),
        (GOOD[:1536], "comes neither member nor end"),
        (GOOD[:1536] + b"\x01" * 512 + GOOD[2048:], "comes neither member nor end"),
        (GOOD + GOOD, "tar files put together are none"),
        (b"", "not a whole tar file"),
        (b"no tar file" * 99, "not a whole tar file"),
        (tar_bytes({"../1.jpg": b"1"}), "member '../1.jpg': its name leads out of the archive"),
        (tar_bytes({"/a/1.jpg": b"1"}), "member '/a/1.jpg': its name leads out of the archive"),
        (tar_bytes({"1.jpg": b"1", "a.jpg": b"", "./1.jpg": b"2"}), "two members '1.jpg'"),
        (
            tar_bytes({"a" * 17_000 + ".jpg": b"1"}, format=tarfile.PAX_FORMAT),
            "a member's headers have more than 16 KiB",
        ),
        (tar_bytes({}), "found no image in 1 files"),
    ],
)
def test_files_that_are_refused(tmp_path, data, message):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "x.tar"))


def test_a_compressed_file_is_refused_by_any_name(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(GOOD))
    for uri in (tmp_path, tmp_path / "x.tar.gz"):
        with pytest.raises(DataError, match="it is compressed"):
            open_source(str(uri))


def test_a_header_may_not_lead_back(tmp_path):
    """A negative size, in base 256, would have tarfile read the first member for ever."""
    data = bytearray(GOOD)
    data[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    checksum = 256 + sum(data[:148]) + sum(data[156:512])
    data[148:156] = f"{checksum:06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar: .*(cut off or damaged|not a whole tar)"):
        open_source(str(tmp_path / "x.tar"))


def test_a_tar_file_among_images_is_one_bad_file(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png")
    tar(tmp_path / "a" / "x.tar", {"1.jpg": b"1"})
    assert "a/x.tar" in labelled(open_source(str(tmp_path)))


def test_a_file_cut_off_after_it_was_listed(tmp_path):
    path = Path(tar(tmp_path / "x.tar", {"1.jpg": bytes(700), "1.cls": "a"}))
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="was cut off since it was listed"):
        source.read(source.files[0])


def test_what_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("graft.data.file_reader.MAX_BYTES", 600)
    source = open_source(tar(tmp_path / "x.tar", {"1.jpg": bytes(700), "1.cls": "a"}))
    with pytest.raises(ImageError, match="more than 0 MB"):
        source.read(source.files[0])


@pytest.mark.slow  # two CPU seconds
def test_files_in_s3(s3_store_uri):
    bucket = Store.open(s3_store_uri)
    large = bytes(3 << 20)  # its header and the next one are read, and not all between them
    bucket.write("set/0.tar", tar_bytes({"1.jpg": large, "1.cls": "a", "2.jpg": b"", "2.cls": "b"}))
    bucket.write("set/1.tar", tar_bytes({"3.jpg": b"three", "3.cls": "a"}))
    source = open_source(f"{s3_store_uri}/set")
    assert [source.read(file) for file in source.files] == [large, b"", b"three"]
    assert [file.label for file in source.files] == ["a", "b", "a"]
    single = open_source(f"{s3_store_uri}/set/1.tar")
    assert single.read(single.files[0]) == b"three"
    with pytest.raises(DataError, match=r"2\.tar: does not exist"):
        open_source(f"{s3_store_uri}/set/2.tar")
