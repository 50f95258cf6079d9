"""Tests that measure run alone: a pytest plugin for `@pytest.mark.alone`.

Under pytest-xdist every test is in a room that many may share, and a test that measures waits
until it has the room for itself. The door is closed meanwhile, else others would come in for ever.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return (yield)
    place = Path(tempfile.gettempdir())
    with (place / f"{run}.door").open("w") as door, (place / f"{run}.room").open("w") as room:
        alone = item.get_closest_marker("alone") is not None
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    if run := getattr(config, "workerinput", {}).get("testrunuid"):
        for name in ("door", "room"):
            Path(tempfile.gettempdir(), f"{run}.{name}").unlink(missing_ok=True)
