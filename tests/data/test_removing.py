"""Removed versions: what goes, what stays, and that versions that add to them go on."""

import pytest

from graft.data.importing import import_dataset
from graft.data.manifest import latest, list_datasets, open_dataset
from graft.data.removing import remove_version
from graft.data.splits import SPLITS
from graft.errors import NotFoundError
from graft.store import Store


@pytest.fixture
def directory(tmp_path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_a_child_is_read_and_added_to_without_its_parent(store, class_folders):
    roots = [class_folders({"a": 10, "b": 10}), class_folders({"a": 3, "b": 2}, "more", 50)]
    parent = import_dataset(store, str(roots[0]), "x").manifest
    child = import_dataset(store, str(roots[1]), "x", add_to=parent.version).manifest
    payloads = {key for key, _ in store.scan(f"{parent.folder}/") if "manifest" not in key}
    removed = remove_version(store, "x", parent.version)
    assert (removed.latest, removed.readers) == (child.version, (child.ref,))
    assert {key for key, _ in store.scan(f"{parent.folder}/")} == payloads
    assert (removed.files, removed.bytes) == (3, parent.own_bytes)
    assert list_datasets(store) == [child]
    with pytest.raises(
        NotFoundError, match=f"no version '{parent.version}'; known: {child.version}"
    ):
        open_dataset(store, "x", parent.version)

    roots.append(class_folders({"c": 3}, "yet more", 70))
    grandchild = import_dataset(store, str(roots[2]), "x", add_to=child.version).manifest
    remove_version(store, "x", child.version)
    dataset = open_dataset(store, "x")
    assert dataset.manifest == grandchild
    files = {path.read_bytes() for root in roots for path in root.rglob("*.png")}
    images = [image for split in SPLITS for image in dataset.images(split)]
    assert {dataset.read(image) for image in images} == files
    again = import_dataset(store, str(roots[0]), "x")  # beside what is left of it
    assert (again.written, again.manifest.version) == (True, parent.version)
    assert latest(store, "x") == parent.version


def test_latest_is_the_newest_that_is_left_or_gone(directory, class_folders):
    root = str(class_folders({"a": 6, "b": 6}))
    first, second, third = (
        import_dataset(directory, root, "x", seed=seed).manifest.version for seed in range(3)
    )
    assert remove_version(directory, "x", second).latest == third
    assert remove_version(directory, "x", third).latest == first
    assert latest(directory, "x") == first
    removed = remove_version(directory, "x", first)
    assert (removed.latest, removed.readers) == (None, ())
    assert latest(directory, "x") is None
    with pytest.raises(NotFoundError, match="no dataset 'x'"):
        open_dataset(directory, "x")
    assert import_dataset(directory, root, "x").written


@pytest.mark.parametrize("pointer", [b"gone", b"../../y", b"\xff"])
def test_latest_that_points_nowhere_is_set_right(directory, class_folders, pointer):
    root = str(class_folders({"a": 6, "b": 6}))
    first, second = (
        import_dataset(directory, root, "x", seed=seed).manifest.version for seed in range(2)
    )
    directory.write("datasets/x/latest", pointer)
    assert remove_version(directory, "x", first).latest == second


def test_damaged_versions_can_be_removed(directory, class_folders):
    root = str(class_folders({"a": 6, "b": 6}))
    first, second = (import_dataset(directory, root, "x", seed=seed).manifest for seed in range(2))
    for manifest in (first, second):
        directory.write(f"{manifest.folder}/manifest.json", b"{")
    assert remove_version(directory, "x", first.version).latest == second.version
    assert remove_version(directory, "x", second.version).latest is None
