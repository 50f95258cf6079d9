"""What each test costs in CPU seconds, and the fast tier's budget: a pytest plugin.

The budget stands in tests/budget.toml, in seconds of a reference processor: how fast this one is
just now is measured next to the tests, for it is shared, and a busy sibling core makes the same
work take longer. `--hold-budget`, which CI gives, fails a run of the fast tier that is over it.
"""

import hashlib
import os
import time
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

import commands

BUDGET = Path(__file__).parents[1] / "budget.toml"
NOT_FAST = ("slow", "nightly", "e2e")
_LAST = pytest.StashKey[float]()


def _spent() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4]) + commands.cpu_seconds()


def reference_seconds() -> float:
    """Return the CPU seconds that a piece of work takes which is always the same."""
    began = time.process_time()
    digest = hashlib.sha256()
    for number in range(120_000):
        digest.update(repr([number, str(number)]).encode() * 4)
    return time.process_time() - began


class Costs:
    """The controller's: adds up what the tests' processes report."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.seconds: dict[str, float] = {}
        self.fast: set[str] = set()
        self.reference = [reference_seconds()]
        self.held = config.getoption("--hold-budget")
        self.committed = tomllib.loads(Path(self.held or BUDGET).read_text())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        spent = getattr(report, "cpu_seconds", 0.0)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + spent
        if getattr(report, "fast", False):
            self.fast.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.reference.append(reference_seconds())
        if self.held and self.fast_seconds() > self.committed["fast_seconds"]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def fast_seconds(self) -> float:
        """Return what the fast tests took, as the reference processor would have."""
        slower = sum(self.reference) / len(self.reference) / self.committed["reference_seconds"]
        return sum(self.seconds[test] for test in self.fast) / slower

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.held or self.config.getoption("--costs"):
            terminalreporter.section("CPU seconds")
            for test, spent in sorted(self.seconds.items(), key=lambda one: -one[1])[:25]:
                terminalreporter.write_line(f"{spent:8.1f}  {test}")
        total = sum(self.seconds.values())
        fast, budget = self.fast_seconds(), self.committed["fast_seconds"]
        over = "" if fast <= budget else ": OVER BUDGET; make tests cheaper, or move some to slow"
        terminalreporter.write_line(
            f"CPU: {total:.0f} s; the {len(self.fast)} fast tests {fast:.0f} s of a reference "
            f"processor, budget {budget:.0f} s{over}"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("costs")
    help = "fail where the fast tests cost more than FILE says (tests/budget.toml)"
    group.addoption("--hold-budget", nargs="?", const=str(BUDGET), metavar="FILE", help=help)
    group.addoption("--costs", action="store_true", help="list the tests that take most CPU")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs(config), "costs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_LAST] = _spent()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    now = _spent()
    report.cpu_seconds = now - item.stash[_LAST]  # type: ignore[attr-defined]
    report.fast = not any(item.get_closest_marker(tier) for tier in NOT_FAST)  # type: ignore[attr-defined]
    item.stash[_LAST] = now
    return report
