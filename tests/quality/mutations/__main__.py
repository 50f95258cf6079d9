"""Do the tests notice faults? Draws some from platform/graft and runs the tests that execute them.

    make coverage
    python -m quality.mutations --coverage F --durations JUNIT.xml --out new.json
    python -m quality.mutations --faults new.json --root OLD --coverage OLD/F --out old.json
    python -m quality.mutations --faults new.json --compare old.json

Without --coverage the faults are only drawn, or what --faults says about them is shown again.
Faults are put into a copy of the checkout in a temporary folder, never into the checkout. For each
the tests that run its line go one by one, the cheapest first, up to the first that fails; and that
one counts if it passes without the fault. Where coverage saw the line only at import, they are the
tests of the package.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coverage import CoverageData

from quality.mutations.contexts import (
    cheapest_first,
    contexts_at,
    durations,
    lines_of,
    lines_run,
    measured_tests,
    tests_of,
    tests_of_package,
)
from quality.mutations.faults import ElsewhereError, Fault, difference, draw, package_of
from quality.mutations.runs import (
    ELSEWHERE,
    KILLED,
    NOT_COVERED,
    NOT_RUN,
    SURVIVED,
    TIMED_OUT,
    UNDECIDED,
    VERDICTS,
    Judge,
    Verdict,
    run_pytest,
)
from quality.mutations.tree import Tree, copied

COLLECTION_S = 300
Record = dict[str, Any]


def main() -> None:
    """Draw or read faults, judge them, write and show what came of it."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = options.root.resolve()
    seed = options.seed or _git_head(root)
    if options.faults:
        read = json.loads(options.faults.read_text())
        seed, records = read["seed"], read["faults"]
    else:
        faults = draw(root, seed, options.count)
        records = [_described(number, fault, root) for number, fault in enumerate(faults, 1)]
    only = options.only and [int(number) for number in options.only.split(",")]
    chosen = [record for record in records if not only or record["number"] in only]
    if options.coverage:
        for record in chosen:
            record.update(asdict(Verdict(NOT_RUN)))
        try:
            for record, verdict in zip(chosen, _judged(chosen, root, options), strict=True):
                record.update(asdict(verdict))
                print(_row(record), flush=True)
                _save(options.out, seed, root, chosen)
        except KeyboardInterrupt:
            print("stopped", flush=True)
    elif not options.compare:
        print("\n".join(_row(record) for record in chosen))
    _save(options.out, seed, root, chosen)
    _show(chosen)
    if options.compare:
        _compare(options.compare, chosen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--count", type=int, default=30, help="faults; at least two a package")
    parser.add_argument("--seed", help="what they are drawn with; the commit's hash by itself")
    parser.add_argument("--faults", type=Path, help="take the faults of this file, draw none")
    parser.add_argument("--only", help="of them only these, by number: 3,17")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[3], help="checkout")
    parser.add_argument("--python", type=Path, help="the root's .venv's, else the one that runs")
    parser.add_argument("--coverage", type=Path, help="the root's coverage data, with contexts")
    parser.add_argument("--durations", type=Path, help="pytest's --junitxml, or JSON: test -> s")
    parser.add_argument("--limit", type=float, default=100, help="seconds a fault")
    parser.add_argument("--total", type=float, default=1800, help="seconds in all")
    parser.add_argument("--out", type=Path, help="write faults and verdicts here, as JSON")
    parser.add_argument("--compare", type=Path, help="show the verdicts of this file next to them")
    return parser.parse_args()


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def _git_head(root: Path) -> str:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _described(number: int, fault: Fault, root: Path) -> Record:
    lines = difference(fault, (root / fault.file).read_text())
    return {"number": number} | asdict(fault) | {"difference": lines}


def _fault(record: Record) -> Fault:
    known = {name: record[name] for name in Fault.__dataclass_fields__}
    return Fault(**known | {"statement": tuple(record["statement"])})


def _judged(records: list[Record], root: Path, options: argparse.Namespace) -> Iterator[Verdict]:
    """Judge each fault as long as there is time."""
    until = time.monotonic() + options.total
    python = options.python or root / ".venv" / "bin" / "python"
    python = python.absolute() if python.exists() else Path(sys.executable)
    data = CoverageData(str(options.coverage))
    data.read()
    with copied(root, python) as tree:
        known = measured_tests(data, _collected(tree))
        if not known:
            sys.exit(f"no context of {options.coverage} is a test of {root}")
        costs = durations(options.durations, known) if options.durations else lines_run(data, known)
        judge = Judge(tree, options.limit, lambda: until - time.monotonic())
        for record in records:
            fault = _fault(record)
            if time.monotonic() > until:
                yield Verdict(NOT_RUN)
                continue
            lines = lines_of(data, fault.file)
            names = contexts_at(fault, lines)
            tests = tests_of(names, known)
            if names and not tests:
                tests = tests_of_package(fault.file, known)
            try:
                ordered = cheapest_first(tests, costs)
                yield judge.verdict(fault, ordered) if tests else Verdict(NOT_COVERED)
            except ElsewhereError as error:
                yield Verdict(ELSEWHERE, str(error))
        for test, log in judge.broken.items():
            print(f"\nleft out, for it fails or is too slow without a fault: {test}\n{log[-2000:]}")


def _collected(tree: Tree) -> dict[str, list[str]]:
    """Ask pytest for every test and its fixtures; see that it has graft from the copy."""
    ran = run_pytest(tree, ["tests"], COLLECTION_S, "--collect-only")
    if ran.code != 0:
        sys.exit(f"pytest cannot collect the tests ({ran.code}):\n{ran.log[-4000:]}")
    if not Path(ran.graft).is_relative_to(tree.root):
        sys.exit(f"the tests have graft from {ran.graft}, not from the copy, {tree.root}")
    return ran.items


def _save(out: Path | None, seed: str, root: Path, records: list[Record]) -> None:
    if out:
        head = {"seed": seed, "commit": _git_head(root), "counts": _counts(records)}
        out.write_text(json.dumps(head | {"faults": records}, indent=1) + "\n")


def _counts(records: list[Record]) -> dict[str, int]:
    counts = Counter(str(record["verdict"]) for record in records if "verdict" in record)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def _row(record: Record) -> str:
    place = f"{_fault(record).place} {record['kind']}"
    end = f"{record['verdict']:15} {record['seconds']:6} s  " if "verdict" in record else ""
    tests = f"{record['tests']:4} tests  {record['by']}" if record.get("tests") else ""
    return f"{record['number']:3}  {place:50} {end}{tests or record.get('by', '')}".rstrip()


def _show(records: list[Record]) -> None:
    """Print the counts, in all and by package, and what was not killed."""
    judged = [record for record in records if "verdict" in record]
    if judged:
        print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in _counts(judged).items()))
    noticed: dict[str, list[bool]] = {}
    for record in judged:
        dead = record["verdict"] in (KILLED, TIMED_OUT)
        noticed.setdefault(package_of(str(record["file"])), []).append(dead)
    for package, each in sorted(noticed.items()):
        print(f"  {package:12} {sum(each)} of {len(each)}")
    for record in records:
        if record.get("verdict") in (SURVIVED, NOT_COVERED, UNDECIDED, TIMED_OUT, ELSEWHERE):
            print(f"\n{_row(record)}\n{record['difference']}")


def _compare(file: Path, new: list[Record]) -> None:
    """Print a file's verdicts on the same faults next to these, and the counts."""
    old = json.loads(file.read_text())["faults"]
    before = {_fault(record): record for record in old}
    print(f"\n{'':54}{file.name[:16]:16}  these")
    for record in new:
        place = f"{_fault(record).place} {record['kind']}"
        was = str(before.get(_fault(record), {}).get("verdict", "-"))
        print(f"{record['number']:3} {place:50}{was:16}  {record.get('verdict', '-')}")
    both = {_fault(record) for record in new}
    counts = [_counts([r for r in side if _fault(r) in both]) for side in (old, new)]
    for verdict in VERDICTS:
        if any(verdict in side for side in counts):
            numbers = [side.get(verdict, 0) for side in counts]
            print(f"{'':4}{verdict:50}{numbers[0]:<16}  {numbers[1]}")


if __name__ == "__main__":
    main()
