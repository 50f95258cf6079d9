"""Which test runs which line: a pytest plugin, for coverage with contexts.

A line that a shared fixture runs belongs to the fixture, `fixture:NAME`, and so to each test that
asks for it; mutations/contexts.py finds these. A process that a test starts has the test's context
for good.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import coverage
import pytest

_SHARED = ("session", "package", "module", "class")
FIXTURE = "fixture:"


@contextmanager
def _context(name: str) -> Iterator[None]:
    running = coverage.Coverage.current()
    before = os.environ.get("GRAFT_TEST_CONTEXT", "")
    os.environ["GRAFT_TEST_CONTEXT"] = name
    if running:
        running.switch_context(name)
    try:
        yield
    finally:
        os.environ["GRAFT_TEST_CONTEXT"] = before
        if running:
            running.switch_context(before)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with _context(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    if fixturedef.scope not in _SHARED:
        return (yield)
    with _context(FIXTURE + fixturedef.argname):
        return (yield)
