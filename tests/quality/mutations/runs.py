"""Whether tests notice a fault: pytest in a copied tree, and what its end says."""

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quality.mutations.faults import Fault
from quality.mutations.tree import Tree

KILLED = "killed"
TIMED_OUT = "timed out"
SURVIVED = "survived"
NOT_COVERED = "no test runs it"
UNDECIDED = "undecided"
NOT_RUN = "not run"
ELSEWHERE = "other source"
VERDICTS = (KILLED, TIMED_OUT, SURVIVED, NOT_COVERED, UNDECIDED, NOT_RUN, ELSEWHERE)

_COLLECTION = "collection"
_FACTOR, _GRACE_S = 3, 5
"""A test hangs when it takes so many times as long as without the fault, and then some."""


@dataclass(frozen=True)
class Verdict:
    """What became of a fault: which test ended it, how long that took, how many tests there are."""

    verdict: str
    by: str = ""
    seconds: float = 0.0
    tests: int = 0
    ran: int = 0


@dataclass
class Ran:
    """One run of pytest."""

    code: int | None
    """None where its time was over."""
    seconds: float
    log: str
    graft: str = ""
    """Where the tests have graft from."""
    items: dict[str, list[str]] = field(default_factory=dict)
    """With `--collect-only`: every test and its fixtures."""
    took: dict[str, float] = field(default_factory=dict)
    """The seconds of each test, with its fixtures'."""
    passed: list[str] = field(default_factory=list)
    failed: str = ""
    """The test that failed, or the file that could not be collected."""
    running: str = ""
    """What was running when the time was over, and for how long."""
    running_for: float = 0.0


def run_pytest(tree: Tree, files: Sequence[str], limit: float, *more: str) -> Ran:
    """Run pytest on files of the tree."""
    return _pytest(tree, None, [*files, *more], limit)


def run_tests(tree: Tree, tests: Sequence[str], limit: float) -> Ran:
    """Run tests in this order up to the first that fails, also the slow ones."""
    return _pytest(tree, tests, ["-x", *_files(tests)], limit)


def _files(tests: Sequence[str]) -> list[str]:
    return sorted({test.partition("::")[0] for test in tests})


def _pytest(tree: Tree, tests: Sequence[str] | None, arguments: list[str], limit: float) -> Ran:
    command = [str(tree.python), "-m", "pytest", "-p", "graft_mutations", "-p", "no:cacheprovider"]
    command += ["-q", "--no-header", "-m", "not e2e", *_one_process(tree), *arguments]
    with tempfile.TemporaryDirectory(prefix="graft-mutation-") as name:
        events, chosen, log = (Path(name, each) for each in ("events", "tests", "log"))
        events.touch()
        given = {"GRAFT_MUTATION_EVENTS": str(events)}
        if tests is not None:
            chosen.write_text(json.dumps(list(tests)))
            given["GRAFT_MUTATION_TESTS"] = str(chosen)
        began = time.time()
        code = tree.run(command, log, limit, given)
        ended = time.time()
        said = [json.loads(line) for line in events.read_text().splitlines()]
        ran = Ran(code, ended - began, log.read_text(errors="replace"))
    return _understood(ran, said, began, ended)


@functools.cache
def _one_process(tree: Tree) -> list[str]:
    xdist = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('xdist'))"
    found = tree.run([str(tree.python), "-c", xdist], Path("/dev/null"), 60, {}) == 0
    return ["-n0"] if found else []


def _understood(ran: Ran, said: list[dict[str, object]], began: float, ended: float) -> Ran:
    since = began
    ran.running = _COLLECTION
    for event in said:
        if isinstance(seconds := event.get("seconds"), float):
            test = str(event["test"])
            ran.took[test] = ran.took.get(test, 0.0) + seconds
        match event:
            case {"graft": str(origin)}:
                ran.graft = origin
            case {"item": str(test), "fixtures": list(fixtures)}:
                ran.items[test] = fixtures
            case {"uncollected": str(file)}:
                ran.failed = ran.failed or f"{_COLLECTION} of {file}"
            case {"begins": str(test), "at": float(at)}:
                ran.running, since = test, at
            case {"test": str(test), "outcome": "failed"}:
                ran.failed = ran.failed or test
            case {"test": str(test), "phase": "call", "outcome": "passed"}:
                ran.passed.append(test)
    ran.running_for = ended - since
    return ran


class Judge:
    """Gives verdicts; what ends a fault is first seen to pass without it."""

    def __init__(self, tree: Tree, limit: float, seconds_left: Callable[[], float]) -> None:
        self._tree, self._limit, self._left = tree, limit, seconds_left
        self._clean: dict[str, float | None] = {}
        self.broken: dict[str, str] = {}
        """What fails without any fault, or takes longer than one may; it is left out."""

    def verdict(self, fault: Fault, tests: Sequence[str]) -> Verdict:
        """Run the tests on the fault, within its time."""
        seconds, passed = 0.0, set[str]()

        def verdict(name: str, by: str = "") -> Verdict:
            return Verdict(name, by, round(seconds, 1), len(tests), len(passed))

        while left := [test for test in tests if test not in passed and test not in self.broken]:
            with self._tree.having(fault):
                ran = run_tests(self._tree, left, max(1.0, min(self._limit, self._left())))
            seconds += ran.seconds
            passed |= set(ran.passed)
            if ran.code == 0:
                break
            if ran.code is None and ran.running_for < _GRACE_S:
                return verdict(UNDECIDED, "the time was over, and what had ended had passed")
            test = ran.running if ran.code is None else ran.failed or _COLLECTION
            clean = self._seconds_without(test, left)
            if clean is None and test not in left:
                return verdict(UNDECIDED, f"{test} fails without it too")
            if clean is not None and ran.code is not None:
                return verdict(KILLED, test)
            if clean is not None and ran.running_for > _FACTOR * clean + _GRACE_S:
                return verdict(TIMED_OUT, test)
            if clean is not None:
                return verdict(UNDECIDED, f"the time was over in {test}")
        return verdict(SURVIVED) if passed else verdict(UNDECIDED, "no test could tell")

    def _seconds_without(self, test: str, tests: Sequence[str]) -> float | None:
        """Return what a test takes on the tree as it is, or collection; None where it fails."""
        if test not in self._clean:
            if test in tests:
                ran = run_tests(self._tree, [test], self._limit)
            else:
                ran = run_pytest(self._tree, _files(tests), self._limit, "--collect-only")
            self._clean[test] = ran.took.get(test, ran.seconds) if ran.code == 0 else None
            if ran.code != 0:
                self.broken[test] = ran.log
        return self._clean[test]
