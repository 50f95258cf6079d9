"""Fixtures for training: a dataset, and this process as the only worker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from colours import draw_colours
from graft.data.importing import import_dataset
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import Event
from graft.training.ranks import Ranks


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


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """This process as the only worker."""
    meet = tmp_path_factory.mktemp("gloo") / "meet"
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    yield Ranks.current(torch.device("cpu"))
    distributed.destroy_process_group()


@pytest.fixture
def train_alone(alone: Ranks) -> Callable[..., list[Event]]:
    """Return a function that runs an attempt in this process and returns its events."""

    def train(store: Store, run: str, post: Callable[[Event], object] | None = None) -> list[Event]:
        events: list[Event] = []
        run_attempt(store, run, alone, post or events.append, time.time())
        return events

    return train
