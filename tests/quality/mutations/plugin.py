"""A pytest plugin for the faults: runs the tests of a list, in its order, and says how each went.

It is copied next to the site-packages of the Python that runs them, so it imports nothing of ours.
"""

import importlib.util
import json
import os
import time
from collections.abc import Generator

import pytest


def _say(**what: object) -> None:
    with open(os.environ["GRAFT_MUTATION_EVENTS"], "a") as events:
        events.write(json.dumps(what | {"at": time.time()}) + "\n")


def pytest_configure() -> None:
    graft = importlib.util.find_spec("graft")
    _say(graft=graft and graft.origin)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    yield
    if path := os.environ.get("GRAFT_MUTATION_TESTS"):
        with open(path) as file:
            place = {test: number for number, test in enumerate(json.load(file))}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in place])
        kept = [item for item in items if item.nodeid in place]
        items[:] = sorted(kept, key=lambda item: place[item.nodeid])


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items if session.config.option.collectonly else ():
        _say(item=item.nodeid, fixtures=getattr(item, "fixturenames", []))
    _say(collected=len(session.items))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _say(uncollected=report.nodeid)


def pytest_runtest_logstart(nodeid: str) -> None:
    _say(begins=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _say(test=report.nodeid, phase=report.when, outcome=report.outcome, seconds=report.duration)
