import json
import shutil
from pathlib import Path

import pytest

from graft.data.importing import import_dataset
from graft.data.manifest import (
    LATEST,
    DatasetVersion,
    Image,
    latest,
    list_datasets,
    open_dataset,
    write_index,
)
from graft.errors import NotFoundError, StoreError
from graft.store import Store


def import_letters(store: Store, root: Path) -> list[str]:
    """Import dataset `letters` three times; return its versions, oldest first."""
    return [
        import_dataset(store, str(root), "letters", seed=seed).manifest.version for seed in range(3)
    ]


@pytest.fixture(scope="module")
def letters(write_classes, tmp_path_factory) -> tuple[Store, list[str]]:
    """A directory store, to be read only, and its versions of `letters`, oldest first."""
    folder = tmp_path_factory.mktemp("letters")
    store = Store.open(str(folder / "store"))
    return store, import_letters(store, write_classes(folder / "images", {"a": 6, "b": 6}))


def test_versions_are_found_by_name_and_prefix(letters):
    store, versions = letters
    assert latest(store, "letters") == versions[-1]
    for asked in (LATEST, versions[-1], versions[-1][:6]):
        assert open_dataset(store, "letters", asked).manifest.version == versions[-1]
    assert open_dataset(store, "letters", versions[0]).folder == f"datasets/letters/{versions[0]}"


def test_what_is_not_found_is_explained(letters):
    store, versions = letters
    with pytest.raises(NotFoundError, match=r"no dataset 'leters' in .*; did you mean 'letters'"):
        open_dataset(store, "leters")
    with pytest.raises(NotFoundError, match=f"has no version 'zz'; known: .*{versions[0]}"):
        open_dataset(store, "letters", "zz")
    with pytest.raises(NotFoundError, match="has 3 versions that begin with ''"):
        open_dataset(store, "letters", "")


def test_an_empty_store(store):
    assert list_datasets(store) == []
    assert latest(store, "letters") is None
    with pytest.raises(NotFoundError, match="it has none yet, `graft data import` makes them"):
        open_dataset(store, "letters")


def test_datasets_are_listed_by_name_then_age(store, class_folders):
    versions = import_letters(store, class_folders({"a": 6, "b": 6}))
    import_dataset(store, str(class_folders({"a": 2, "b": 2}, "other", first=90)), "digits")
    found = list_datasets(store)
    assert [manifest.name for manifest in found] == ["digits", "letters", "letters", "letters"]
    assert [manifest.version for manifest in found[1:]] == versions
    assert found[1].ref == f"letters@{versions[0]}"
    assert latest(store, "letters") == versions[-1]


def test_the_index_is_ordered_by_content(letters):
    store, _ = letters
    dataset = open_dataset(store, "letters")
    for split in ("train", "val"):
        images = dataset.images(split)
        assert images == sorted(images, key=lambda image: (image.label, image.sha256))
        assert {image.split for image in images} == {split}


def test_a_manifest_of_another_release_is_refused(letters, tmp_path):
    original, versions = letters
    store = Store.open(str(shutil.copytree(original.uri, tmp_path / "store")))
    key = f"datasets/letters/{versions[0]}/manifest.json"
    manifest = json.loads(store.read(key).data)
    store.write(key, json.dumps(manifest | {"format": 99}).encode())
    with pytest.raises(StoreError, match=r"manifest\.json is in format 99; this is Graft"):
        open_dataset(store, "letters", versions[0])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "../../file"),
        ("split", "../val"),
        ("shard", -1),
        ("shard", 1),
        ("offset", -1),
        ("offset", 1 << 40),
        ("size", 1 << 40),
    ],
)
def test_an_index_that_names_what_there_is_not_is_refused(letters, column, value):
    store, versions = letters
    manifest = open_dataset(store, "letters", versions[0]).manifest
    rows = [vars(image) for image in open_dataset(store, "letters", versions[0]).images("train")]
    data = write_index([Image(**rows[0] | {column: value}), Image(**rows[1])])
    index = store.put(manifest.folder, "index.parquet", data)
    hostile = DatasetVersion(store, manifest.model_copy(update={"index": index}))
    with pytest.raises(StoreError, match=f"{index.name} is damaged: ") as error:
        hostile.images("train")
    assert error.value.exit_code == 2
