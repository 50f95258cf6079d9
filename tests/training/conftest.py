"""Fixtures for training: a dataset, and runs of which only the numbers matter."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from colours import draw_colours, new_run
from graft.data.importing import import_dataset
from graft.spec import Finetune
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.events import Event, Validated
from graft.training.worker_group import Ranks


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
def colour_store(imported_colours: Path, tmp_path: Path) -> Store:
    """A directory store of its own that holds the dataset `colours`."""
    return Store.open(str(shutil.copytree(imported_colours, tmp_path / "store")))


@dataclass(frozen=True)
class Numbers:
    """What a run's epochs came to."""

    run: str
    events: list[Event]
    tail: dict[str, Tensor]
    """After the last epoch."""

    @property
    def history(self) -> list[tuple[dict[str, float], dict[str, Any]]]:
        """Metrics of training and of validation, by epoch."""
        return [(e.train, e.val) for e in self.events if isinstance(e, Validated)]


@pytest.fixture(scope="session")
def numbers_of(alone: Ranks) -> Callable[[Store, Finetune], Numbers]:
    """Return a function that trains a spec's epochs.

    The run has no result, and its model is not registered: that takes longer than its epochs do.
    """

    def train(store: Store, spec: Finetune) -> Numbers:
        run = new_run(store, spec)
        events: list[Event] = []

        def post(event: Event) -> None:
            events.append(event)
            if isinstance(event, Validated) and event.epoch == spec.train.epochs:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_attempt(store, run, alone, post, started=0.0)
        checkpoint = latest_checkpoint(store, run)
        assert checkpoint is not None
        return Numbers(run, events, load_state(store, checkpoint).tail)

    return train
