"""Versions that add to earlier ones: what they take over, store and refuse."""

import json
import shutil
from collections.abc import Iterator
from os.path import join
from pathlib import Path

import pytest

from data.failing_directory import Failing, ctrl_c, full_disk
from graft.data.importing import Imported, import_dataset
from graft.data.manifest import (
    LATEST,
    DatasetVersion,
    Image,
    latest,
    list_datasets,
    open_dataset,
)
from graft.data.splits import SPLITS
from graft.errors import DataError, NotFoundError, StoreError
from graft.store import Store


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def twenty(class_folders) -> Path:
    return class_folders({"a": 10, "b": 10})


def add(store: Store, source: Path, to: str = LATEST, **settings: object) -> Imported:
    return import_dataset(store, str(source), "x", add_to=to, **settings)


def images_of(dataset: DatasetVersion) -> Iterator[Image]:
    return (image for split in SPLITS for image in dataset.images(split))


def splits(dataset: DatasetVersion) -> dict[str, str]:
    return {image.sha256: image.split for image in images_of(dataset)}


def sizes(dataset: DatasetVersion) -> dict[str, int]:
    return {split: len(dataset.images(split)) for split in SPLITS}


def objects(store: Store) -> dict[str, int]:
    return dict(store.scan(""))


def test_an_addition_stores_what_is_new_and_moves_nothing(store, twenty, class_folders):
    parent = import_dataset(store, str(twenty), "x").manifest
    before, kept = objects(store), splits(open_dataset(store, "x"))
    more = class_folders({"a": 3, "b": 2}, "more", first=50)
    manifest = add(store, more).manifest
    written = objects(store).keys() - before.keys()
    assert all(key.startswith(f"datasets/x/{manifest.version}/") for key in written)
    assert sum(objects(store)[key] for key in written if "manifest" not in key) == (
        manifest.own_bytes
    )
    assert manifest.parent == parent.version
    (shard,) = manifest.shards
    assert shard.size < parent.shards[0].size

    grown = open_dataset(store, "x")
    assert grown.manifest == manifest
    assert {digest: splits(grown)[digest] for digest in kept} == kept
    assert sizes(grown) == {"train": 18, "val": 5, "test": 2}
    files = {path.read_bytes() for root in (twenty, more) for path in root.rglob("*.png")}
    assert {grown.read(image) for image in images_of(grown)} == files
    assert len(grown.originals()) == 5  # all of val
    assert manifest.bytes == sum(map(len, files))


def test_a_third_version_reads_from_both_before(directory, twenty, class_folders):
    first = import_dataset(directory, str(twenty), "x").manifest
    roots = class_folders({"a": 2, "b": 1}, "more", first=50), class_folders({"b": 2}, "yet", 70)
    second, third = (add(directory, root).manifest for root in roots)
    assert [part.version for part in third.earlier] == [first.version, second.version]
    dataset = open_dataset(directory, "x")
    files = {path.read_bytes() for root in (twenty, *roots) for path in root.rglob("*.png")}
    assert {dataset.read(image) for image in images_of(dataset)} == files


def test_what_is_there_already_adds_nothing(directory, twenty, class_folders):
    parent = import_dataset(directory, str(twenty), "x").manifest
    more = class_folders({"a": 3, "b": 2}, "more", first=50)
    child = add(directory, more).manifest
    before = objects(directory)
    again = add(directory, more)
    assert (again.written, again.manifest) == (False, child)
    assert not add(directory, more, parent.version).written
    assert not add(directory, twenty).written
    assert objects(directory) == before
    shutil.move(more / "a", twenty / "a" / "deeper")
    shutil.move(more / "b", twenty / "b" / "deeper")
    assert not add(directory, twenty, parent.version).written  # all of it, elsewhere
    assert latest(directory, "x") == child.version


def test_a_version_is_what_it_holds_however_it_came_about(directory, class_folders, tmp_path):
    root = class_folders({"train/a": 2, "train/b": 2, "val/a": 1})
    import_dataset(directory, str(root), "x", test_fraction=0)
    counts = {"train/a/later": 1, "val/b/later": 1, "test/b/later": 1}
    child = add(directory, class_folders(counts, "more", first=50)).manifest
    shutil.copytree(tmp_path / "more", root, dirs_exist_ok=True)
    whole = import_dataset(directory, str(root), "x")
    assert (whole.written, whole.manifest) == (False, child)
    assert import_dataset(directory, str(root), "y").manifest.digest == child.digest


def test_an_image_stays_in_its_split_whatever_a_source_says(directory, class_folders):
    root = class_folders({"train/a": 3, "train/b": 3, "val/a": 2, "test/b": 2})
    import_dataset(directory, str(root), "x")
    before = splits(open_dataset(directory, "x"))
    shutil.move(root / "test" / "b" / "0.png", root / "train" / "b" / "tested.png")
    shutil.move(root / "test" / "b" / "1.png", root / "train" / "a" / "tested, and a now.png")
    shutil.rmtree(root / "test")
    manifest = add(directory, root).manifest
    dataset = open_dataset(directory, "x")
    assert splits(dataset) == before
    assert "test" not in {image.split for image in dataset.images("train")}
    (conflict,) = manifest.conflicts
    assert conflict.labels == ("a", "b")
    assert manifest.leakage == ()
    assert [image.label for image in dataset.images("test")] == [0, 1, 1]
    assert manifest.notes[-1].endswith("has in another split, where they stay: 2 files")
    assert (manifest.shards, manifest.images) == ((), 11)


def test_new_classes_shift_the_labels(directory, twenty, class_folders):
    import_dataset(directory, str(twenty), "x")
    manifest = add(directory, class_folders({"A": 4, "ab": 4}, "more", first=50)).manifest
    assert manifest.classes == ("A", "a", "ab", "b")
    names = {
        manifest.classes[image.label]: image.path.split("/")[0]
        for image in images_of(open_dataset(directory, "x"))
    }
    assert names == {name: name for name in manifest.classes}
    assert manifest.counts["test"] == {"A": 1, "a": 1, "ab": 1, "b": 1}
    assert any("does not have: A, ab" in note for note in manifest.notes)
    assert any("differ only in upper and lower case" in note for note in manifest.notes)


def test_bad_files_are_listed_once(directory, twenty):
    (twenty / "a" / "text.jpg").write_text("no image")
    import_dataset(directory, str(twenty), "x", skip_bad=True)
    with pytest.raises(DataError, match="1 of 21 files cannot be used"):
        add(directory, twenty)
    again = add(directory, twenty, skip_bad=True)
    assert not again.written
    assert len(again.manifest.skipped) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_side": 256}, r"--max-side 256: x@\w+ has 512, which holds"),
        ({"val_fraction": 0.3}, r"--val-fraction 0\.3: x@\w+ has 0\.2"),
        ({"test_fraction": 0.0}, r"--test-fraction 0\.0: x@\w+ has 0\.1"),
        ({"seed": 1}, r"--seed 1: x@\w+ has 0"),
    ],
)
def test_other_settings_are_refused(directory, twenty, settings, message):
    import_dataset(directory, str(twenty), "x")
    same = {"max_side": 512, "val_fraction": 0.2, "test_fraction": 0.1, "seed": 0}
    assert not add(directory, twenty, **same).written
    before = objects(directory)
    with pytest.raises(DataError, match=message):
        add(directory, twenty, **settings)
    assert objects(directory) == before


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("",), ("train", "val"), r"has its own val split, and that of x@\w+ is made of train"),
        (("train", "val"), ("",), r"has no splits, and x@\w+ has those of its source \(val\)"),
    ],
)
def test_splits_from_elsewhere_are_refused(directory, class_folders, first, second, message):
    counts, more = ({join(s, c): 4 for s in part for c in "ab"} for part in (first, second))
    import_dataset(directory, str(class_folders(counts)), "x")
    with pytest.raises(DataError, match=message):
        add(directory, class_folders(more, "more", first=50))


def test_what_there_is_not_cannot_be_added_to(directory, twenty):
    with pytest.raises(NotFoundError, match="no dataset 'x'"):
        add(directory, twenty)
    import_dataset(directory, str(twenty), "x")
    with pytest.raises(NotFoundError, match="no version 'zz'"):
        add(directory, twenty, "zz")


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("failure", [full_disk, ctrl_c])
def test_a_failed_addition_leaves_nothing(tmp_path, twenty, class_folders, at, failure):
    fine = Store.open(str(tmp_path / "store"))
    import_dataset(fine, str(twenty), "x")
    before = objects(fine)
    more = class_folders({"a": 3, "b": 2}, "more", first=50)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        add(Store(Failing(tmp_path / "store", at, failure)), more)
    assert objects(fine) == before
    assert add(fine, more).written


def test_two_additions_at_once_are_two_versions(tmp_path, twenty, class_folders):
    fine = Store.open(str(tmp_path / "store"))
    parent = import_dataset(fine, str(twenty), "x").manifest
    other = class_folders({"b": 3}, "other", first=70)
    slow = Failing(tmp_path / "store", 3, lambda: None)

    def meanwhile() -> None:
        slow.left = 100
        add(fine, other)

    slow.failure = meanwhile
    child = add(Store(slow), class_folders({"a": 3}, "more", first=50)).manifest
    manifests = list_datasets(fine)
    assert [manifest.parent for manifest in manifests] == [None, parent.version, parent.version]
    assert latest(fine, "x") == child.version
    for manifest in manifests:
        dataset = DatasetVersion(fine, manifest)
        assert all(dataset.read(image) for image in images_of(dataset))


@pytest.mark.parametrize("version", ["..", "../../y/v", "a/b", "", "/etc", None, 1])
def test_shards_of_another_folder_are_refused(directory, twenty, class_folders, version):
    import_dataset(directory, str(twenty), "x")
    manifest = add(directory, class_folders({"a": 3}, "more", first=50)).manifest
    key = f"{manifest.folder}/manifest.json"
    document = json.loads(directory.read(key).data)
    document["earlier"][0]["version"] = version
    directory.write(key, json.dumps(document).encode())
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read .*earlier: 0: version"):
        open_dataset(directory, "x")


def test_shards_that_are_gone_are_an_error(directory, twenty, class_folders):
    parent = import_dataset(directory, str(twenty), "x").manifest
    add(directory, class_folders({"a": 3}, "more", first=50))
    directory.delete(f"{parent.folder}/{parent.shards[0].name}")
    dataset = open_dataset(directory, "x")
    image = next(image for image in images_of(dataset) if image.shard == 0)
    with pytest.raises(StoreError, match=parent.shards[0].name):
        dataset.read(image)
