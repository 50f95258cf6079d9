"""A model that is right more often than not, and images that it has not seen."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from colours import COLOURS, colour_spec, new_run
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.registry import get_model
from graft.spec import Scaling
from graft.store import Store
from models import register_model

if TYPE_CHECKING:
    from graft.training.worker_group import Ranks

IMAGES = {"train": 24, "val": 16, "test": 100}
"""Of each colour."""


def draw_shades(folder: Path, images: dict[str, int], seed: int = 0) -> Path:
    """Draw patches whose shade says most often, and not always, which colour they are of."""
    draw = np.random.default_rng(seed)
    for split, count in images.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shade = colour + draw.normal(0, 55, 3)
                pixels = draw.normal(shade, 20, (36, 36, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def trained_shades(tmp_path_factory: pytest.TempPathFactory, alone: "Ranks") -> Path:
    """The folder of a store with `colours` and a version, trained and evaluated: to be copied."""
    from graft.report.evaluation.evaluate import evaluate
    from graft.training.attempt import run_attempt

    folder = tmp_path_factory.mktemp("shades")
    store = Store.open(str(folder / "store"))
    import_dataset(store, str(draw_shades(folder / "images", IMAGES)), "colours")
    untested = {"train": 4, "val": 30}
    images = draw_shades(folder / "untested", untested, seed=1)
    import_dataset(store, str(images), "untested", test_fraction=0)
    spec = colour_spec(
        backbone={"arch": "timm/test_resnet", "weights": "none", "freeze": 0},
        train__epochs=4,
        train__optimizer={"kind": "adamw", "lr": 3e-3},
    )
    run_attempt(store, new_run(store, spec), alone, lambda event: None, started=0.0)
    version = get_model(store, "colours@1")
    for name, split in (("colours", "test"), ("untested", "val")):
        data = open_dataset(store, name)
        evaluate(store, version, data, split, Scaling(), lambda done, total: None)
    return folder / "store"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a version `colours@1` of random weights, and no images."""
    store = Store.open(str(tmp_path_factory.mktemp("untrained") / "store"))
    register_model(store, "colours", classes=tuple(sorted(COLOURS)))
    return store


@pytest.fixture
def store(trained_shades: Path, tmp_path: Path) -> Store:
    """A store of its own with `colours` and `colours@1`."""
    return Store.open(str(shutil.copytree(trained_shades, tmp_path / "store")))
