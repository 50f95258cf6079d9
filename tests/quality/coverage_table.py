"""Lines and branches by package: `coverage_table.py DATA [BEFORE]`, BEFORE a table that it wrote.

Prints a table, and writes it beside the data as DATA.json.
"""

import json
import sys
from pathlib import Path

import coverage

_RC = Path(__file__).with_name("coverage.ini")
_PARTS = ("lines", "branches")
Table = dict[str, dict[str, tuple[int, int]]]
"""Package -> lines or branches -> how many are run, of how many."""


def measure(data: Path) -> Table:
    """Add up what a data file says of graft's packages; the modules beside them are `graft`."""
    report = data.with_suffix(".report.json")
    measured = coverage.Coverage(data_file=str(data), config_file=str(_RC))
    measured.load()
    measured.json_report(outfile=str(report))
    table: Table = {}
    for name, found in json.loads(report.read_text())["files"].items():
        below = Path(name).parts[Path(name).parts.index("graft") + 1 :]
        package = below[0] if len(below) > 1 else "graft"
        totals = found["summary"]
        new = {
            "lines": (totals["covered_lines"], totals["num_statements"]),
            "branches": (totals["covered_branches"], totals["num_branches"]),
        }
        old = table.get(package, dict.fromkeys(_PARTS, (0, 0)))
        table[package] = {
            part: (old[part][0] + new[part][0], old[part][1] + new[part][1]) for part in _PARTS
        }
    report.unlink()
    return dict(sorted(table.items()))


def percent(run: tuple[int, int]) -> float:
    return 100 * run[0] / run[1] if run[1] else 100.0


def main(data: Path, before: Path | None = None) -> None:
    table = measure(data)
    Path(f"{data}.json").write_text(json.dumps(table))
    earlier: Table = json.loads(before.read_text()) if before else {}
    print(f"{'package':14}{'lines %':>16}{'branches %':>16}")
    for package, parts in table.items():
        row = f"{package:14}"
        for part in _PARTS:
            was = f"{percent(earlier[package][part]):.1f} ->" if package in earlier else ""
            row += f"{was:>10}{percent(parts[part]):6.1f}"
        print(row)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
