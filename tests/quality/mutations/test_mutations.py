"""The script that puts faults into the source: which, where, and what becomes of them."""

import ast
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from coverage import CoverageData

from quality.mutations import contexts
from quality.mutations.faults import (
    ElsewhereError,
    Fault,
    draw,
    fault_at,
    package_of,
    put_in,
)
from quality.mutations.sites import sites_of
from quality.mutations.tree import Tree

AREA = '''\
"""Areas."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING or not 1:
    EDGE = 1 + 1


def area(sides: tuple[int, int] | None, scale: int = 1 + 2) -> int:
    """Return it; - and + here are words."""
    if sides is None or len(sides) < 2:
        raise ValueError(f"{sides}: no sides", 1 - 1)
    print("ä", -scale)
    total = "ä" and divide(
        sides[0] * sides[1],  # both
        scale - 1,
    )
    return total


def divide(one: int, other: int) -> int:
    return one // (other + 1)
'''
WAIT = """

def wait(hours):
    if hours >= 0:
        threading.Event().wait(3600 * (hours - 1))
"""
OTHER = """\
def last(values, at=-1):
    return [value + 1 for value in values if value and not value > 3][at:]


def commutes(one, other):
    return max(one, other) + max(one, one) * pair(one, one)
"""
TESTS = """\
import pytest

from graft.shapes.area import area, divide, wait


@pytest.fixture(scope="module")
def square():
    return area((3, 3), 1)


def test_square(square):
    assert square == 9


def test_divide():
    assert divide(9, 2) == 3


def test_wait():
    wait(1)


def test_broken_anyway():
    divide(9, 2)
    raise AssertionError
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small tree: three packages, of which one is the modules on top."""
    for file, source in {
        "platform/graft/__init__.py": '"""Shapes."""\n',
        "platform/graft/top.py": OTHER,
        "platform/graft/shapes/area.py": AREA,
        "platform/graft/lists/last.py": OTHER,
        "tests/shapes/test_area.py": TESTS,
    }.items():
        path = tmp_path / "root" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "root"


def every_fault(root: Path, file: str) -> list[Fault]:
    source = (root / file).read_text()
    tree = ast.parse(source)
    faults = (fault_at(site, source, tree) for site in sites_of(file, tree))
    return [fault for fault in faults if fault]


def test_the_same_seed_draws_the_same_faults(root: Path) -> None:
    drawn = [draw(root, seed, 8) for seed in ("one", "one", "other")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({(fault.file, fault.line) for fault in drawn[0]}) == len(drawn[0])


def test_every_package_has_two(root: Path) -> None:
    packages = [package_of(fault.file) for fault in draw(root, "seed", 0)]
    assert sorted(packages) == ["lists", "lists", "shapes", "shapes", "top level", "top level"]


def test_each_kind_as_it_is_written(root: Path) -> None:
    file = "platform/graft/shapes/area.py"
    whole, test = '"ä" and {}', "sides is None or len(sides) < 2"
    call = "divide(\n        {},  # both\n        {},\n    )"
    product, less = "sides[0] * sides[1]", "scale - 1"
    before = call.format(product, less)
    assert [(fault.kind, fault.before, fault.after) for fault in every_fault(root, file)] == [
        ("condition", test, f"not ({test})"),
        ("condition", test, "True"),
        ("condition", test, "len(sides) < 2"),
        ("condition", test, "sides is None"),
        ("off by one", "2", "3"),
        ("off by one", "2", "1"),
        ("off by one", "len(sides) < 2", "len(sides) <= 2"),
        ("condition", whole.format(before), before),
        ("condition", whole.format(before), '("ä"\n\n\n)'),
        ("swapped arguments", before, call.format(less, product)),
        ("off by one", "0", "1"),
        ("off by one", "1", "2"),
        ("off by one", "1", "0"),
        ("sign", less, "scale + 1"),
        ("off by one", "1", "2"),
        ("off by one", "1", "0"),
        ("sign", "other + 1", "other - 1"),
        ("off by one", "1", "2"),
        ("off by one", "1", "0"),
    ]


def test_a_fault_changes_the_code_and_keeps_the_lines(root: Path) -> None:
    file = "platform/graft/lists/last.py"
    source = (root / file).read_text()
    for fault in every_fault(root, file):
        changed = put_in(fault, source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        assert changed.count("\n") == source.count("\n")


def test_a_fault_is_put_in_and_taken_out(root: Path) -> None:
    tree = Tree(root, Path(sys.executable))
    fault = draw(root, "seed", 0)[0]
    path = root / fault.file
    before = path.read_text()
    times = set()
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), tree.having(fault):
            assert path.read_text() == put_in(fault, before) != before
            times.add(path.stat().st_mtime)
            raise KeyboardInterrupt
        assert path.read_text() == before
        times.add(path.stat().st_mtime)
    assert len(times) == 4, "an old .pyc would be taken for the source's"


def test_a_fault_of_another_source_is_refused(root: Path) -> None:
    fault = draw(root, "seed", 0)[0]
    for other in ("", "\n" + (root / fault.file).read_text()):
        with pytest.raises(ElsewhereError, match=fault.place):
            put_in(fault, other)


A, B, C = "tests/lists/test_a.py::test_a[x|y]", "tests/test_top.py::test_b", "tests/test_c.py::C::c"
KNOWN = {A: ["store"], B: ["store", "trained"], C: []}


def test_contexts_stand_for_tests() -> None:
    assert contexts.tests_of([A], KNOWN) == {A}
    assert contexts.tests_of([f"{B}@ray"], KNOWN) == {B}
    assert contexts.tests_of(["fixture:store"], KNOWN) == {A, B}
    assert contexts.tests_of([f"{C}|fixture:trained"], KNOWN) == {B, C}
    assert contexts.tests_of(["", "tests/test_gone.py::test_gone"], KNOWN) == set()
    assert contexts.tests_of_package("platform/graft/lists/last.py", KNOWN) == {A}
    assert contexts.tests_of_package("platform/graft/top.py", KNOWN) == {B}


def test_tests_of_a_line_the_cheapest_first(tmp_path: Path) -> None:
    file = "platform/graft/shapes/area.py"
    data = CoverageData(str(tmp_path / "coverage"))
    for context, lines in {A: [11, 14], B: [11], "fixture:store": [15, 16], "": [1, 20]}.items():
        data.set_context(context)
        data.add_lines({f"/elsewhere/{file}": lines})
    lines = contexts.lines_of(data, file)
    place = {"column": 0, "end_column": 1, "kind": "sign", "before": "", "after": ""}

    def at(line: int, statement: tuple[int, int]) -> set[str]:
        fault = Fault(file=file, line=line, end_line=line, statement=statement, **place)
        return contexts.contexts_at(fault, lines)

    assert at(11, (11, 11)) == {A, B}
    assert at(17, (14, 17)) == {A, "fixture:store"}
    assert at(20, (20, 20)) == {""}
    assert at(12, (12, 12)) == set()
    assert set(contexts.measured_tests(data, KNOWN)) == {A, B}
    assert contexts.cheapest_first([A, B, C], contexts.lines_run(data, KNOWN)) == [B, A, C]


def test_durations_of_junit(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="tests.lists.test_a" name="test_a[x|y]"'
        ' time="2.5"/><testcase classname="tests.test_c.C" name="c@ray" time="1"/>'
        "</testsuite></testsuites>"
    )
    assert contexts.durations(path, KNOWN) == {A: 2.5, C: 1.0}


@pytest.mark.slow
def test_verdicts(root: Path, tmp_path: Path) -> None:
    """Run the script: one fault that a test sees, one that hangs, some that none sees or runs."""
    area = root / "platform/graft/shapes/area.py"
    area.write_text(AREA + WAIT)
    (root / "tests/shapes/test_area.py").write_text(TESTS)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(root)]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    expected = {
        "other - 1": ("killed", ["broken_anyway", "divide"]),
        "hours > 0": ("survived", ["wait"]),
        "hours + 1": ("timed out", ["wait"]),
        "len(sides) <= 2": ("no test runs it", []),
    }
    every = {fault.after: fault for fault in every_fault(root, str(area.relative_to(root)))}
    data = CoverageData(str(tmp_path / "coverage"))
    for after, (_, names) in expected.items():
        for name in names:
            data.set_context(f"tests/shapes/test_area.py::test_{name}")
            data.add_lines({str(area): [every[after].line]})
    data.write()
    faults = [
        asdict(every[after]) | {"number": number, "difference": after}
        for number, after in enumerate(expected, 1)
    ]
    given, out = tmp_path / "faults.json", tmp_path / "out.json"
    given.write_text(json.dumps({"seed": "x", "faults": faults}))
    command = [sys.executable, "-m", "quality.mutations", "--faults", given, "--root", root]
    command += [
        "--limit",
        "20",
        "--python",
        sys.executable,
        "--coverage",
        data.data_filename(),
        "--out",
        out,
    ]
    own = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, "--compare", given], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = {record["after"]: record for record in json.loads(out.read_text())["faults"]}
    assert {after: record["verdict"] for after, record in records.items()} == {
        after: verdict for after, (verdict, _) in expected.items()
    }
    assert records["other - 1"]["by"] == "tests/shapes/test_area.py::test_divide"
    assert "1 killed, 1 timed out, 1 survived, 1 no test runs it" in done.stdout
    assert "test_broken_anyway" in done.stdout, "it fails by itself, and does not count"
    assert area.read_text() == AREA + WAIT
