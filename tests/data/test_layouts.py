"""A version is named by images, labels and splits, in whatever layout they come."""

from pathlib import Path

import pytest

from data.source_files import csv, hugging_face, tar
from graft.data.image import decode
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.data.splits import SPLITS
from graft.errors import DataError
from graft.store import Store, sha256


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(str(tmp_path / "store"))


def in_parquet(root: Path, folder: Path) -> str:
    """Write each split's images into a Parquet file; return the folder."""
    for split in sorted(path.name for path in root.iterdir()):
        paths = sorted((root / split).rglob("*.png"), reverse=True)
        labels = [int(path.parent.name == "b") for path in paths]
        data = [path.read_bytes() for path in paths]
        hugging_face(folder / "data" / f"{split}-00000-of-00001.parquet", data, labels, ["a", "b"])
    return str(folder)


def in_tars(root: Path, folder: Path) -> str:
    """Write each split's images into a tar file; return the folder."""
    for split in root.iterdir():
        members: dict[str, bytes | str] = {}
        for number, path in enumerate((root / split).rglob("*.png")):
            members |= {f"{number}.cls": path.parent.name, f"{number}.png": path.read_bytes()}
        tar(folder / f"{split.name}-0.tar", members)
    return str(folder)


def in_a_table(root: Path, folder: Path) -> str:
    rows = [
        f"{path},{path.parent.name},{path.parents[1].name}\n"
        for path in sorted(root.rglob("*.png"))
    ]
    return csv(folder, "path,label,split\n" + "".join(rows))


def test_the_same_images_are_one_version(store, class_folders, tmp_path):
    root = class_folders({"train/a": 5, "train/b": 4, "validation/a": 1, "test/b": 2})
    folders = import_dataset(store, str(root), "x").manifest
    for layout in (in_parquet, in_tars, in_a_table):
        imported = import_dataset(store, layout(root, tmp_path / layout.__name__), "x")
        assert (imported.manifest.version, imported.written) == (folders.version, False)
        manifest = import_dataset(store, layout(root, tmp_path / layout.__name__), "y").manifest
        dataset = open_dataset(store, "y", manifest.version)
        assert len(dataset.originals()) == 1
        for image in (image for split in SPLITS for image in dataset.images(split)):
            data = dataset.read(image)
            assert sha256(data) == image.sha256
            assert decode(data).size == (12, 8)


def test_without_splits_too(store, class_folders, tmp_path):
    root = class_folders({"a": 5, "b": 5})
    folders = import_dataset(store, str(root), "x").manifest
    paths = sorted(root.rglob("*.png"))
    data, labels = [path.read_bytes() for path in paths], [path.parent.name for path in paths]
    table = hugging_face(tmp_path / "train.parquet", data, labels)
    members = {
        f"{number}.{extension}": content
        for number, pair in enumerate(zip(data, labels, strict=True))
        for extension, content in zip(("png", "cls"), pair, strict=True)
    }
    for uri in (table, tar(tmp_path / "x.tar", members)):
        assert import_dataset(store, uri, "x").manifest.version == folders.version


def test_a_broken_image_is_named_by_file_and_place(store, encoded, picture, tmp_path):
    good = [encoded(picture(seed), "PNG") for seed in range(4)]
    data = [good[0], good[1][:40], None, *good[2:]]
    labels = ["a", "a", "b", "b", "b"]
    uri = hugging_face(tmp_path / "x.parquet", data, labels)
    with pytest.raises(DataError, match="2 of 5 files cannot be used") as caught:
        import_dataset(store, uri, "x")
    assert "x.parquet/row 1: " in str(caught.value)
    assert "x.parquet/row 2: no bytes in its column image.bytes" in str(caught.value)
    members = {"0.cls": "a", "0.png": good[1][:40], "1.cls": "b", "1.png": good[0]}
    with pytest.raises(DataError, match=r"x\.tar/0\.png: "):
        import_dataset(store, tar(tmp_path / "x.tar", members), "x")
