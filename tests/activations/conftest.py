"""A small dataset, a network over it, and what is needed to compute its activations."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from activations_lab import Lab, make_lab
from colours import draw_colours
from graft.data.importing import import_dataset
from graft.data.manifest import DatasetVersion, open_dataset
from graft.store import Store


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine a second one waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def colour_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in three colours."""
    return draw_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def imported_colours(colour_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store that holds the dataset `colours`: to be copied, never written to."""
    folder = tmp_path_factory.mktemp("imported") / "store"
    import_dataset(Store.open(str(folder)), str(colour_images), "colours", test_fraction=0)
    return folder


@pytest.fixture
def colours(store: Store, imported_colours: Path) -> DatasetVersion:
    """The dataset, in a store of its own, once a directory, once on S3."""
    for path in imported_colours.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(imported_colours).as_posix(), path.read_bytes())
    return open_dataset(store, "colours")


@pytest.fixture
def lab(store: Store, colours: DatasetVersion) -> Lab:
    """SqueezeNet over `colours`, once in a directory, once on S3."""
    return make_lab(store, colours)


@pytest.fixture
def local_lab(imported_colours: Path, tmp_path: Path) -> Lab:
    """SqueezeNet over `colours`, in a directory."""
    store = Store.open(str(shutil.copytree(imported_colours, tmp_path / "store")))
    return make_lab(store, open_dataset(store, "colours"))


@pytest.fixture
def grown(colour_images: Path, tmp_path: Path) -> Callable[[Store], DatasetVersion]:
    """Imports a later version of `colours`: five more images of red to train on."""

    def grow(store: Store) -> DatasetVersion:
        folder = tmp_path / "grown"
        for path in colour_images.rglob("*.png"):
            link = folder / path.relative_to(colour_images)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
        noise = np.random.default_rng(1)
        for number in range(5):
            pixels = noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / "red" / f"new-{number}.png")
        import_dataset(store, str(folder), "colours", test_fraction=0)
        return open_dataset(store, "colours")

    return grow
