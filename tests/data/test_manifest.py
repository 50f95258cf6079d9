import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graft.data.importing import import_dataset
from graft.data.index import INDEX, PARQUET_INDEX, Columns, Images
from graft.data.manifest import (
    LATEST,
    DatasetVersion,
    latest,
    list_datasets,
    open_dataset,
)
from graft.data.splits import SPLITS
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


def hostile(store: Store, version: str, name: str, index: bytes) -> DatasetVersion:
    """Return a version of `letters` with another index."""
    manifest = open_dataset(store, "letters", version).manifest
    ref = store.put(manifest.folder, name, index)
    return DatasetVersion(store, manifest.model_copy(update={"index": ref}))


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def rows(images: Images) -> list[dict[str, Any]]:
    """Return rows of the Arrow index."""
    return [
        asdict(image) | {"sha256": bytes.fromhex(image.sha256), "split": SPLITS.index(image.split)}
        for image in images
    ]


NOWHERE = [
    ("label", -1),
    ("label", 2),
    ("shard", -1),
    ("shard", 1),
    ("offset", -1),
    ("offset", 1 << 40),
    ("size", 1 << 40),
]
"""Columns and values of what there is not."""


def refused(dataset: DatasetVersion, match: str = "") -> None:
    with pytest.raises(StoreError, match=f"{dataset.manifest.index.name} is damaged: {match}") as e:
        dataset.images("train")
    assert e.value.exit_code == 2


@pytest.mark.parametrize(("column", "value"), [*NOWHERE, ("split", -1), ("split", 3)])
def test_an_index_that_names_what_there_is_not_is_refused(letters, column, value):
    store, (version, *_) = letters
    first, second, *_ = rows(open_dataset(store, "letters", version).images("train"))
    table = pa.Table.from_pylist([first | {column: value}, second], INDEX)
    refused(hostile(store, version, "index.arrow", arrow(table)), "it names|an image lies")


@pytest.mark.parametrize(
    ("column", "value"),
    [*NOWHERE, ("sha256", "../../file"), ("sha256", None), ("path", None), ("split", "../val")],
)
def test_a_parquet_index_of_earlier_releases_is_checked_alike(letters, column, value):
    store, (version, *_) = letters
    images = open_dataset(store, "letters", version).images("train")
    sound = [asdict(image) for image in images]
    for changed in (sound, [sound[0] | {column: value}, *sound[1:]]):
        file = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(changed, PARQUET_INDEX), file)
        dataset = hostile(store, version, "index.parquet", file.getvalue().to_pybytes())
        if changed is sound:
            assert dataset.images("train") == images
        else:
            refused(dataset)


def test_whatever_bytes_an_index_has_it_is_an_answer(letters):
    store, (version, *_) = letters
    sound = rows(open_dataset(store, "letters", version).images("val"))
    table = pa.Table.from_pylist(sound, INDEX)
    ends = np.array([0, 1 << 40, 1], np.int64)
    broken_paths = pa.LargeStringArray.from_buffers(2, pa.py_buffer(ends), pa.py_buffer(b"ab"))
    latin = pa.LargeStringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 1, 2], np.int64)), pa.py_buffer(b"\xff\xfe")
    )
    for data in (
        b"",
        b"ARROW1\0\0nothing",
        arrow(table)[:-40],
        arrow(table.drop_columns(["size"])),
        arrow(table.cast(table.schema.set(2, pa.field("label", pa.int64())))),
        arrow(
            pa.Table.from_pylist(
                [rows(open_dataset(store, "letters").images("val"))[0] | {"label": None}], INDEX
            )
        ),
        arrow(table.slice(0, 2).set_column(1, "path", broken_paths)),
        arrow(table.slice(0, 2).set_column(1, "path", latin)),
    ):
        refused(hostile(store, version, "index.arrow", data))


def test_images_are_rows_of_columns_in_an_order_of_their_own(letters):
    store, _ = letters
    train = open_dataset(store, "letters").images("train")
    listed = list(train)
    assert train[1:3] == listed[1:3]
    assert train[::-2] == listed[::-2]
    assert train[-1] == listed[-1]
    chosen = train.at(np.array([3, 0]))
    assert chosen == [listed[3], listed[0]]
    assert chosen[1:].at(np.array([True])) == [listed[0]]
    assert chosen.sha256 == [image.sha256 for image in chosen]
    assert chosen.labels.tolist() == [image.label for image in chosen]
    assert chosen.paths == [image.path for image in chosen]
    with pytest.raises(IndexError):
        chosen[2]


def test_an_index_is_written_byte_for_byte_alike(letters, tmp_path):
    store, _ = letters
    dataset = open_dataset(store, "letters")
    with dataset.store.open_file(dataset.folder, dataset.manifest.index) as file:
        written = file.read()
    images = [image for split in SPLITS for image in dataset.images(split)]
    Columns.of(images).write(tmp_path / "index.arrow")
    assert (tmp_path / "index.arrow").read_bytes() == written
