"""The table: rows that each measure one thing, kept apart from each other and to a time limit."""

import os
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "FAILED", "skipped", "not run"]

WIDTHS = (20, 31, 19, 7)
"""Of the columns name, measured, figure and verdict: 80 with the blanks between them."""


class Skipped(Exception):  # noqa: N818
    """A row that has nothing to measure here; the message says why."""


@dataclass(frozen=True)
class Figure:
    """What a row measured; its lines stand one below the other."""

    text: str
    good: bool = True
    """False: a check that did not hold."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    """What is measured, and the tolerance where it is a check."""
    measure: Callable[[], Figure]
    seconds: float = 10.0
    """What it is expected to take on a GPU; it is not begun with less time left."""


@dataclass(frozen=True)
class Result:
    """What a row came to."""

    row: Row
    verdict: Verdict
    figure: str = ""
    why: str = ""
    """Why it failed, was skipped or was not run."""


def run_rows(
    rows: Sequence[Row],
    ends: float,
    show: Callable[[Result], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Run rows one after another; what does not fit before `ends`, on `clock`, is not begun."""
    results = []
    for row in rows:
        left = ends - clock()
        if left < row.seconds:
            why = f"time: {max(0, left):.0f} s left, {row.seconds:.0f} s expected"
            result = Result(row, "not run", why=why)
        else:
            result = run_row(row)
        results.append(result)
        show(result)
    return results


def run_row(row: Row) -> Result:
    """Run one row; whatever it raises is its own failure."""
    try:
        figure = row.measure()
    except Skipped as reason:
        return Result(row, "skipped", why=str(reason))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Result(row, "FAILED", why=f"{type(error).__name__}: {' '.join(lines[:4])}")
    return Result(row, "ok" if figure.good else "FAILED", figure.text)


class Cut:
    """Ends the whole process at the time limit, with the table as far as it came.

    A row may hang in a kernel or in a compiler, where no exception reaches it.
    """

    def __init__(self, rows: Sequence[Row], seconds: float):
        self._left = list(rows)
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def done(self, result: Result) -> None:
        """Note that a row is through."""
        self._left.remove(result.row)

    def stop(self) -> None:
        """Let the process live."""
        self._timer.cancel()

    def _end(self) -> None:
        for row in self._left[:1]:
            print_result(Result(row, "FAILED", why="still running at the time limit"))
        for row in self._left[1:]:
            print_result(Result(row, "not run", why="time"))
        os._exit(1)


def print_heading() -> None:
    """Print the names of the columns."""
    print("\n".join(_lines(("name", "measured", "figure", "verdict"))))
    print(" ".join("-" * width for width in WIDTHS), flush=True)


def print_result(result: Result) -> None:
    """Print a row, and below it why it is not ok."""
    print("\n".join(_lines((result.row.name, result.row.what, result.figure, result.verdict))))
    why = textwrap.wrap(result.why, 76, break_long_words=True)
    print("".join(f"    {line}\n" for line in why), end="", flush=True)


def summary(results: Iterable[Result], seconds: float) -> str:
    """Return the table's last line."""
    counts = Counter(result.verdict for result in results)
    verdicts: tuple[Verdict, ...] = ("ok", "FAILED", "skipped", "not run")
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts)
    return f"{sum(counts.values())} rows in {seconds:.0f} s: {told}"


def _lines(cells: tuple[str, str, str, str]) -> list[str]:
    """Lay cells out in their columns, each as high as it needs."""
    columns = [
        [line for part in cell.split("\n") for line in textwrap.wrap(part, width) or [""]]
        for cell, width in zip(cells, WIDTHS, strict=True)
    ]
    height = max(map(len, columns))
    padded = [column + [""] * (height - len(column)) for column in columns]
    return [
        " ".join(f"{part:{width}}" for part, width in zip(line, WIDTHS, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]
