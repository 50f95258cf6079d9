"""Which tests run a line: reads coverage's contexts, as contexts.py writes them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData

from quality.mutations.faults import TOP, Fault, package_of

FIXTURE = "fixture:"
Known = Mapping[str, Iterable[str]]
"""Every test that pytest collects, and the fixtures it asks for."""
Lines = dict[int, set[str]]


def lines_of(data: CoverageData, file: str) -> Lines:
    """Return the contexts of a file's lines, wherever the tree lay that was measured."""
    lines: Lines = {}
    for measured in sorted(data.measured_files()):
        if f"/{measured}".endswith(f"/{file}"):
            for line, names in data.contexts_by_lineno(measured).items():
                lines.setdefault(line, set()).update(names)
    return lines


def contexts_at(fault: Fault, lines: Lines) -> set[str]:
    """Return the contexts that run a fault: by its own lines, else by its statement's."""
    first, last = fault.statement
    for span in (range(fault.line, fault.end_line + 1), range(first, last + 1)):
        if names := set().union(*(lines.get(line, set()) for line in span)):
            return names
    return set()


def tests_of(names: Iterable[str], known: Known) -> set[str]:
    """Return the tests that contexts stand for: a fixture for all that ask for it.

    A context may be two, `static|dynamic`, and xdist writes `test@group`.
    """
    tests: set[str] = set()
    for name in names:
        for part in [name] if _test(name, known) else name.split("|"):
            if part.startswith(FIXTURE):
                fixture = part.removeprefix(FIXTURE)
                tests |= {test for test, fixtures in known.items() if fixture in fixtures}
            elif test := _test(part, known):
                tests.add(test)
    return tests


def _test(name: str, known: Known) -> str | None:
    return next((test for test in (name, name.rpartition("@")[0]) if test in known), None)


def tests_of_package(file: str, known: Known) -> set[str]:
    """Return the tests of a file's package: for what runs at import, by whoever is first."""
    package = package_of(file)
    name = Path(file).stem if package == TOP else package
    return {test for test in known if test.startswith((f"tests/{name}/", f"tests/test_{name}"))}


def measured_tests(data: CoverageData, known: Known) -> dict[str, Iterable[str]]:
    """Return what is known of the tests that ran while coverage measured."""
    ran = tests_of((name for name in data.measured_contexts() if FIXTURE not in name), known)
    return {test: known[test] for test in known if test in ran}


def durations(path: Path, known: Known) -> dict[str, float]:
    """Read each test's seconds, from a JSON object or from pytest's --junitxml."""
    if path.suffix == ".json":
        return {test: float(seconds) for test, seconds in json.loads(path.read_text()).items()}
    names = {_junit(test): test for test in known}
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = (case.get("classname", ""), case.get("name", "").rpartition("@")[0])
        test = names.get(name) or names.get((name[0], case.get("name", "")))
        if test:
            seconds[test] = float(case.get("time", 0))
    return seconds


def _junit(test: str) -> tuple[str, str]:
    place, bracket, parameters = test.partition("[")
    path, _, names = place.partition("::")
    *classes, name = names.split("::")
    return ".".join([path.removesuffix(".py").replace("/", "."), *classes]), (
        name + bracket + parameters
    )


def lines_run(data: CoverageData, known: Known) -> dict[str, float]:
    """Count the lines that each test runs: how dear it is, where nothing says its seconds."""
    counts: Counter[str] = Counter()
    for file in sorted(data.measured_files()):
        for names in data.contexts_by_lineno(file).values():
            counts.update(names)
    costs: Counter[str] = Counter()
    for name, lines in counts.items():
        if FIXTURE not in name:
            for test in tests_of([name], known):
                costs[test] += lines
    return dict(costs)


def cheapest_first(tests: Iterable[str], costs: Mapping[str, float]) -> list[str]:
    """Order tests by what they cost; one that nothing is known of comes last."""
    return sorted(tests, key=lambda test: (costs.get(test, float("inf")), test))
