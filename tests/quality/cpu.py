"""What each test costs in CPU seconds, and the fast tier's budget: a pytest plugin.

The budget stands in tests/budget.toml, in seconds of a reference processor: how fast this one is
just now is measured between the tests, for it is shared, and a busy sibling core makes the same
work take longer. `--hold-budget`, which CI gives, fails a run whose fast tests are over it.
"""

import math
import os
import statistics
import time
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

BUDGET = Path(__file__).parents[1] / "budget.toml"
NOT_FAST = ("slow", "nightly", "e2e")
MEASURED_EVERY_S = 20  # how fast the processor is
_TICKS = os.sysconf("SC_CLK_TCK")


class Spent:
    """The CPU seconds of this process and of all that have come from it, which live or have ended.

    Those that live count at once: a Ray that many tests share is not the cost of the one after
    which it is stopped.
    """

    def __init__(self) -> None:
        self._last = self._now()

    def since_last(self) -> float:
        """Return what was spent since the last call."""
        # Less than before: a process whose parent has died is no longer seen.
        last, self._last = self._last, self._now()
        return max(0.0, self._last - last)

    @staticmethod
    def _now() -> float:
        spent: dict[int, int] = {}
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            spent[int(folder.name)] = sum(map(int, fields[11:15]))  # own, and waited for
        total, left = 0, [os.getpid()]
        while left:
            process = left.pop()
            total += spent.get(process, 0)
            left += children.get(process, ())
        return total / _TICKS


def reference_seconds() -> float:
    """Return the CPU seconds that a piece of work takes which is always the same.

    It is what tests do most, Python itself. Nothing for which some processors have instructions of
    their own: where SHA-256 took a half of it, tests seemed dearer on those that do.
    """
    began = time.process_time()
    kept: dict[int, list[str]] = {}
    for number in range(100_000):
        kept[number % 1024] = repr([number, str(number)]).split(",")
    return time.process_time() - began


class Costs:
    """The controller's: adds up what the tests' processes report."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.seconds: dict[str, float] = {}
        self.fast: set[str] = set()
        self.reference: list[float] = []
        self.held = config.getoption("--hold-budget")
        self.committed = tomllib.loads(Path(self.held or BUDGET).read_text())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        spent = getattr(report, "cpu_seconds", 0.0)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + spent
        if getattr(report, "fast", False):
            self.fast.add(report.nodeid)
        self.reference += getattr(report, "reference_seconds", [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.held and self.fast_seconds() > self.committed["fast_seconds"]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def fast_seconds(self) -> float:
        """Return what the fast tests took, as the reference processor would have."""
        if not self.fast:
            return 0.0
        slower = statistics.mean(self.reference) / self.committed["reference_seconds"]
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
    if config.getoption("numprocesses", None) is None or hasattr(config, "workerinput"):
        config.pluginmanager.register(Counting(), "counting")


class Counting:
    """Of a process that runs tests: adds to a test's last report what it cost."""

    def __init__(self) -> None:
        self.spent = Spent()
        self.measured = -math.inf

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self.spent.since_last()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when != "teardown":
            return report
        report.fast = not any(item.get_closest_marker(tier) for tier in NOT_FAST)  # type: ignore[attr-defined]
        report.cpu_seconds = self.spent.since_last()  # type: ignore[attr-defined]
        if time.monotonic() > self.measured + MEASURED_EVERY_S:
            self.measured = time.monotonic()
            report.reference_seconds = [reference_seconds()]  # type: ignore[attr-defined]
        return report
