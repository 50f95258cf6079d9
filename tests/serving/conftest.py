"""A real model with random weights, registered as training registers one."""

from collections.abc import Callable

import pytest

from graft.registry import ModelVersion
from graft.store import Store
from models import encoded, picture
from models import register_model as register_random


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one model, `ants-bees@1`, that nobody changes."""
    store = Store.open(str(tmp_path_factory.mktemp("serving") / "store"))
    register_random(store)
    return store


@pytest.fixture(scope="session")
def register_model() -> Callable[..., ModelVersion]:
    """Return what registers a real model in a store."""
    return register_random


@pytest.fixture(scope="session")
def photograph() -> Callable[..., bytes]:
    """Return an image file: ``photograph(seed, kind)``."""
    return lambda seed, kind="JPEG": encoded(picture(seed), kind)
