"""Tries count over versions of images and of models, where the images that certify overlap."""

import shutil
from pathlib import Path

import pytest

from colours import COLOURS
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.registry import ModelVersion
from graft.report.decision.held_out import role_of
from graft.report.decision.tries import record_try
from graft.store import Store
from models import register_model
from report.decision.conftest import draw_shades


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def versions(store: Store) -> list[ModelVersion]:
    classes = tuple(sorted(COLOURS))
    return [register_model(store, "colours", run=run, classes=classes) for run in ("a", "b")]


def imported(store: Store, folder: Path, *seeds: int) -> DatasetVersion:
    """Import the test images of these seeds, as the next version of `colours`."""
    shutil.rmtree(folder, ignore_errors=True)
    for seed in seeds:
        drawn = draw_shades(folder / "drawn", {"train": 2, "val": 2, "test": 6}, seed)
        for file in drawn.glob("*/*/*"):
            goal = folder / "images" / file.relative_to(drawn).with_name(f"{seed}-{file.name}")
            goal.parent.mkdir(parents=True, exist_ok=True)
            file.rename(goal)
        shutil.rmtree(folder / "drawn")
    import_dataset(store, str(folder / "images"), "colours")
    dataset = open_dataset(store, "colours")
    assert any(role_of(image.sha256) == "certify" for image in dataset.images("test"))
    return dataset


def test_more_images_and_other_versions_are_further_tries(
    store: Store, versions: list[ModelVersion], tmp_path: Path
) -> None:
    first, second = versions
    few = imported(store, tmp_path / "drawn", 1)
    assert record_try(store, first, few, "recall") == 0
    assert record_try(store, first, few, "recall") == 0  # to ask the same again is no other
    assert record_try(store, first, few, "accuracy") == 1
    more = imported(store, tmp_path / "drawn", 1, 2)
    assert more.manifest.ref != few.manifest.ref
    assert record_try(store, first, more, "recall") == 2
    assert record_try(store, second, more, "recall") == 3
    assert record_try(store, first, few, "accuracy") == 1  # as it was tested before


def test_images_of_which_none_was_tried_begin_anew(
    store: Store, versions: list[ModelVersion], tmp_path: Path
) -> None:
    model = versions[0]
    some, others = (imported(store, tmp_path / "drawn", seed) for seed in (1, 2))
    assert record_try(store, model, some, "recall") == 0
    assert record_try(store, model, others, "recall") == 0
    # What has both joins them; so does, from then on, what has one of them.
    both = imported(store, tmp_path / "drawn", 1, 2)
    assert record_try(store, model, both, "recall") == 2
    assert record_try(store, model, some, "accuracy") == 2 + 1
    third = imported(store, tmp_path / "drawn", 3)
    assert record_try(store, model, third, "recall") == 0


def test_a_damaged_try_and_images_that_are_gone_count(
    store: Store, versions: list[ModelVersion], tmp_path: Path
) -> None:
    model = versions[0]
    some, others = (imported(store, tmp_path / "drawn", seed) for seed in (1, 2))
    record_try(store, model, some, "recall")
    for key, _ in list(store.scan(f"datasets/colours/{some.manifest.version}/")):
        store.delete(key)
    assert record_try(store, model, others, "recall") == 1
    store.create("models/colours/tried/colours/3.json", b"{}")
    assert record_try(store, model, others, "accuracy") == 3
    assert record_try(store, model, others, "accuracy") == 3
