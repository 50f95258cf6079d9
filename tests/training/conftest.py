"""Fixtures for training: a dataset."""

from pathlib import Path

import pytest

from colours import draw_colours
from graft.data.importing import import_dataset
from graft.store import Store


@pytest.fixture(scope="session")
def colour_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in three colours."""
    return draw_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture
def colour_store(colour_images: Path, tmp_path: Path) -> Store:
    """A directory store of its own that holds the dataset `colours`."""
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(colour_images), "colours")
    return store
