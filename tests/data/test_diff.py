"""What two versions differ in."""

import shutil

import pytest

from graft.data.diff import ChangedImage, diff_versions
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.store import Store


@pytest.fixture
def directory(tmp_path) -> Store:
    return Store.open(str(tmp_path / "store"))


def version(store: Store, root: object, **settings: object) -> DatasetVersion:
    manifest = import_dataset(store, str(root), "x", **settings).manifest
    return open_dataset(store, "x", manifest.version)


def test_a_version_does_not_differ_from_itself(directory, class_folders):
    dataset = version(directory, class_folders({"a": 5, "b": 5}))
    diff = diff_versions(dataset, dataset, 10)
    assert [difference.images for difference in diff.by_kind.values()] == [0, 0, 0, 0]
    assert (diff.settings, diff.classes_added, diff.classes_removed) == ({}, (), ())


def test_every_difference_is_told(directory, class_folders):
    root = class_folders({"train/a": 4, "train/b": 4, "train/c": 1, "val/a": 3, "test/b": 2})
    before = version(directory, root)
    shutil.move(root / "test" / "b" / "0.png", root / "train" / "b" / "moved.png")
    shutil.move(root / "train" / "a" / "0.png", root / "train" / "b" / "relabelled.png")
    shutil.move(root / "val" / "a" / "0.png", root / "test" / "b" / "both.png")
    shutil.copy(root / "train" / "a" / "1.png", root / "train" / "a" / "copy.png")
    (root / "train" / "b" / "0.png").unlink()
    shutil.rmtree(root / "train" / "c")
    class_folders({"train/d": 2, "val/d": 1}, first=90)
    diff = diff_versions(before, version(directory, root, max_side=8), 10)

    assert (diff.classes_added, diff.classes_removed) == (("d",), ("c",))
    assert diff.settings == {"max_side": (512, 8)}
    assert (diff.added.images, diff.added.splits) == (3, {"train": 2, "val": 1})
    assert {image.path for image in diff.added.first} == {
        *("train/d/0.png", "train/d/1.png", "val/d/0.png")
    }
    assert diff.removed.splits == {"train": 2}
    removed = {(image.path, image.before, image.after) for image in diff.removed.first}
    assert removed == {
        ("train/b/0.png", ("train/b",), ()),
        ("train/c/0.png", ("train/c",), ()),
    }
    both = ChangedImage("test/b/both.png", ("val/a",), ("test/b",))
    relabelled = ChangedImage("train/b/relabelled.png", ("train/a",), ("train/b",))
    assert set(diff.relabelled.first) == {both, relabelled}
    assert diff.relabelled.splits == {"train": 1, "val → test": 1}
    moved = ChangedImage("train/b/moved.png", ("test/b",), ("train/b",))
    assert set(diff.moved.first) == {both, moved}
    assert diff.moved.splits == {"test → train": 1, "val → test": 1}


def test_a_second_label_or_split_of_an_image_is_a_difference(directory, class_folders):
    root = class_folders({"train/a": 3, "train/b": 3, "val/a": 2})
    before = version(directory, root, test_fraction=0)
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "b" / "conflict.png")
    shutil.copy(root / "train" / "a" / "1.png", root / "val" / "a" / "leak.png")
    diff = diff_versions(before, version(directory, root, test_fraction=0), 10)
    (conflict,), (leak,) = diff.relabelled.first, diff.moved.first
    assert (conflict.before, conflict.after) == (("train/a",), ("train/a", "train/b"))
    assert (leak.before, leak.after) == (("train/a",), ("train/a", "val/a"))
    assert diff.moved.splits == {"train → train, val": 1}


def test_so_many_are_named_and_all_are_counted(directory, class_folders):
    before = version(directory, class_folders({"a": 5, "b": 5}))
    after = version(directory, class_folders({"a": 30, "b": 30}, "other", first=70))
    diff = diff_versions(before, after, 4)
    assert (diff.added.images, diff.removed.images) == (60, 10)
    assert len(diff.added.first) == len(diff.removed.first) == 4
    assert sum(diff.added.splits.values()) == 60
    assert sum(diff_versions(after, before, 0).added.splits.values()) == 10
    assert diff_versions(after, before, 0).added.first == ()
