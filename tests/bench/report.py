"""What every benchmark ends with: a table for people, a line in bench.jsonl for machines."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[2] / "bench.jsonl"


def report(
    bench: str, ours: float, baseline: float, unit: str, higher_is_better: bool = True
) -> None:
    """Print one result and append it to bench.jsonl.

    Args:
        bench: what was measured.
        ours: Graft's number, in `unit`.
        baseline: the baseline's, measured in the same run.
        unit: such as ``images/s``.
        higher_is_better: False for a time or a size.
    """
    ratio = record(bench, ours, baseline, unit, higher_is_better)
    table = Table("bench", "Graft", "baseline", "unit", "times better")
    table.add_row(bench, f"{ours:,.1f}", f"{baseline:,.1f}", unit, f"{ratio:.2f}")
    Console().print(table)


def record(
    bench: str, ours: float, baseline: float, unit: str, higher_is_better: bool = True
) -> float:
    """Append one result to bench.jsonl, and return how many times better ours is."""
    ratio = ours / baseline if higher_is_better else baseline / ours
    with RESULTS.open("a") as file:
        line = {"bench": bench, "ratio": round(ratio, 3), "ours": round(ours, 3)}
        file.write(json.dumps(line | {"baseline": round(baseline, 3), "unit": unit}) + "\n")
    return ratio
