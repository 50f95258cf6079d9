"""A second try at the end for tests that failed: a pytest plugin, `-p quality.retries`.

What failed stays failed, and the run with it, until its second try has passed: a run that is cut
off before has failed. What passes on its second try only is flaky: the summary names it, with what
went wrong the first time. Session fixtures are made anew for second tries.
"""

from collections import defaultdict
from collections.abc import Generator
from itertools import chain

import pytest

MOST = 10
"""Where more tests have failed, something is broken, and all of them again would only take time."""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Runner(), "second tries")
    config.pluginmanager.register(Judge(config), "what second tries show")


class Runner:
    """Runs tests again, in the process that ran them: under pytest-xdist, each worker its own."""

    def __init__(self) -> None:
        self._failed: dict[str, pytest.Item] = {}
        self._again = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._again:
            report.second_try = True  # type: ignore[attr-defined] # pytest-xdist sends it along
        elif report.failed:
            self._failed[item.nodeid] = item
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        again = list(self._failed.values())
        if len(again) > MOST:
            return result
        self._again = True
        for item, following in zip(again, [*again[1:], None], strict=False):
            if hasattr(session.config, "workerinput"):
                # pytest-xdist's worker takes every report for one of the item that it ran last.
                session.items[:] = [item] * len(session.items)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return result


class Judge:
    """Decides what the tries of a test come to, where they are counted and shown."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: pytest.Session | None = None
        self._failures: dict[str, list[pytest.TestReport]] = defaultdict(list)
        """Of first tries, by test."""
        self._second: dict[str, list[pytest.TestReport]] = defaultdict(list)
        """All reports of second tries, by test."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "second_try"):
            if report.failed:
                self._failures[report.nodeid].append(report)
            return
        self._second[report.nodeid].append(report)
        if report.when == "teardown" and self._is_flaky(report.nodeid):
            self._forgive(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Second tries have letters, and are counted with the first ones."""
        if not hasattr(report, "second_try"):
            return None
        if report.passed and report.when != "call":
            return "", "", ""
        letter = {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome]
        return "", letter, f"{report.outcome.upper()} (second try)"

    def _is_flaky(self, test: str) -> bool:
        second = self._second.get(test, [])
        return len(second) == 3 and all(report.passed for report in second)

    def _forgive(self, test: str) -> None:
        assert self._session
        self._session.testsfailed -= len(self._failures[test])
        if terminal := self._config.pluginmanager.get_plugin("terminalreporter"):
            for category in ("failed", "error"):
                counted = terminal.stats.pop(category, [])
                if left := [report for report in counted if report.nodeid != test]:
                    terminal.stats[category] = left
            terminal.stats.setdefault("flaky", []).append(self._failures[test][0])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        failed = set(self._failures)
        flaky = {test for test in failed if self._is_flaky(test)}
        twice = {test for test, reports in self._second.items() if any(r.failed for r in reports)}
        shown = [*(self._failures[test] for test in flaky), *(self._second[test] for test in twice)]
        for report in chain.from_iterable(shown):
            if report.failed:
                which = "second try" if hasattr(report, "second_try") else "first try"
                terminalreporter.section(f"{which} of {report.nodeid}", "_")
                terminalreporter.write_line(report.longreprtext)
                for title, content in report.sections:
                    terminalreporter.section(title, "-")
                    terminalreporter.write_line(content)
        if failed:
            terminalreporter.section("second tries")
        for word, tests in {
            "FLAKY, passed only on its second try": flaky,
            "FAILED twice": twice,
            "FAILED, with no whole second try": failed - flaky - twice,
        }.items():
            for test in sorted(tests):
                terminalreporter.write_line(f"{word}: {test}")
