"""Scenarios when time is short: which come first, and by name those it was too short for.

A pytest plugin, which `python -m cluster.e2e` loads. What --first names has to run, whatever the
time; what else did not run has neither passed nor failed.
"""

import time

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("time that is short")
    group.addoption(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="start no scenario but the first after this time, as `date +%%s` says it",
    )
    group.addoption(
        "--then-for",
        type=float,
        default=0,
        metavar="SECONDS",
        help="start what --then names for so long after the first, also after the deadline",
    )
    for option, what in {"--first": "have to run, and come first", "--then": "come next"}.items():
        group.addoption(
            option,
            default="",
            metavar="NAMES",
            help=f"scenarios that {what}, in this order: beginnings of names, with commas between",
        )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Clock(config), "clock")


class Clock:
    """Starts scenarios while there is time."""

    def __init__(self, config: pytest.Config) -> None:
        self._deadline: float | None = config.getoption("--deadline")
        self._first = _names(config.getoption("--first"))
        self._then = _names(config.getoption("--then"))
        self._then_for: float = config.getoption("--then-for")
        self._then_deadline: float | None = None
        self._wanted: list[str] = []
        self._ended: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        names = (*self._first, *self._then)
        for name in names:
            if not any(_begins(item, name) for item in items):
                raise pytest.UsageError(f"no scenario's name begins with '{name}'")

        def place(item: pytest.Item) -> int:
            return next((i for i, name in enumerate(names) if _begins(item, name)), len(names))

        items.sort(key=place)

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly:
            self._wanted = [item.nodeid for item in session.items]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if self._deadline is None or any(_begins(item, name) for name in self._first):
            return None
        now, deadline = time.time(), self._deadline
        if self._then_deadline is None:
            self._then_deadline = now + self._then_for
        if any(_begins(item, name) for name in self._then):
            deadline = max(deadline, self._then_deadline)
        return True if now > deadline else None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._ended.add(nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if late := [test for test in self._wanted if test not in self._ended]:
            terminalreporter.section("no time was left for these")
        for test in late:
            terminalreporter.write_line(f"NOT RUN: {test}")


def _names(option: str) -> list[str]:
    return [name.strip() for name in option.split(",") if name.strip()]


def _begins(item: pytest.Item, name: str) -> bool:
    return item.name.removeprefix("test_").startswith(name)
