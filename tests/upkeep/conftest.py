"""A small store with everything in it, and what makes garbage in it."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.store import Store
from upkeep_lab import fill

ARCHIVE = Path(__file__).parents[1] / "stores" / "7f21038.tar.xz"


@pytest.fixture(scope="session")
def objects() -> dict[str, bytes]:
    """All objects of a store: a dataset and one that adds to it, a run, a sweep, reports,
    decisions, predictions, a job."""
    with tarfile.open(ARCHIVE) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file}


@pytest.fixture
def full_directory(tmp_path: Path, objects: dict[str, bytes]) -> Store:
    """That store in a directory."""
    return fill(Store.open(str(tmp_path / "full")), objects)


@pytest.fixture
def everything() -> Callable[[Store], dict[str, bytes]]:
    """Return what reads all of a store, but for what collectors write."""

    def read(store: Store) -> dict[str, bytes]:
        keys = [key for key, _ in store.scan("") if not key.startswith("gc/")]
        return {key: store.read(key).data for key in keys}

    return read
