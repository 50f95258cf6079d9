"""The smallest network as a version that all tests here read."""

import pytest

from graft.registry import ModelVersion
from graft.store import Store
from models import register_model


@pytest.fixture(scope="package")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with `ants-bees@1`, and whatever else a test registers under another name."""
    return Store.open(str(tmp_path_factory.mktemp("engines") / "store"))


@pytest.fixture(scope="package")
def version(tiny_store: Store) -> ModelVersion:
    return register_model(tiny_store, arch="timm/test_resnet")
