"""A soak: half an hour of steady requests with a promotion every ten seconds.

`graft serve --follow` with two replicas answers at half of what it bears, at most 200 requests a
second, while the champion moves to and fro between two versions. Its memory at the end is compared
with that of minute 5, by kind of process, and failed requests are counted: asked are none, and
memory that does not grow.

    soak.py --minutes 1      to try the soak itself; memory is then compared with that of a sixth
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import wrk
from bench_changes import ARCH, RATE, bearable, cells
from lab import Lab, make_lab
from processes import Memory, Started, end_on_sigterm
from rich.console import Console
from rich.table import Table
from servers import graft, running
from steady import Steady, failures

from graft.registry import CHAMPION, promote
from report import record

EVERY_S = 10.0
"""Seconds between two promotions; memory is read before each."""
COMPARED = 5
"""Minute with which the end is compared, of half an hour."""
WINDOW = 6
"""Readings whose median counts: a minute's."""
LOAD = 0.5
"""Of the rate that the server bears."""


@dataclass(frozen=True)
class Reading:
    """The server's memory at some time."""

    seconds: float
    """Since the load began."""
    sizes: dict[str, Memory]
    """By kind of process."""


def options(words: list[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, help=f"a second; by default {RATE:.0f}, or less")
    return parser.parse_args(words)


def soak(lab: Lab, started: Started, load: Steady, minutes: float) -> list[Reading]:
    """Promote one version after the other, and read the memory, until the time is over."""
    began = time.monotonic()
    readings: list[Reading] = []
    turn = 0
    while (spent := time.monotonic() - began) < 60 * minutes:
        readings.append(Reading(spent, started.memory()))
        turn += 1
        promote(lab.store, f"{lab.name}@{1 + turn % 2}", CHAMPION)
        time.sleep(max(0.0, turn * EVERY_S - (time.monotonic() - began)))
    return [*readings, Reading(time.monotonic() - began, started.memory())]


def around(readings: list[Reading], seconds: float) -> dict[str, int]:
    """Return the proportional memory by kind of process, the median of readings around a time."""
    nearest = sorted(readings, key=lambda one: abs(one.seconds - seconds))[:WINDOW]
    names = {name for reading in nearest for name in reading.sizes}
    return {
        name: round(median(one.sizes.get(name, Memory()).pss for one in nearest)) for name in names
    }


def show(readings: list[Reading], load: Steady, minutes: float) -> None:
    """Print what came of it, and append it to bench.jsonl."""
    compared = 60 * minutes * COMPARED / 30
    early, late = around(readings, compared), around(readings, readings[-1].seconds)
    heading = f"PSS MiB, minute {compared / 60:.1f}"
    table = Table("process", heading, f"minute {minutes:.1f}", "grown MiB")
    for name in sorted(early | late, key=lambda one: -late.get(one, 0)):
        table.add_row(name, *(f"{size / 2**20:.1f}" for size in sizes(early, late, name)))
    Console(width=140).print(table)
    first, last = sum(early.values()), sum(late.values())
    growth = record("soak, memory at the end", last, first, "bytes", higher_is_better=False)
    print(f"memory at the end: {1 / growth:.3f} times that of minute {compared / 60:.1f}")
    answered = Counter(one.said for one in load.answers if one.status == 200)
    print(f"{len(readings) - 1} promotions; answers: {dict(answered)}")
    headings = ("requests", "failed", "p50 ms", "p99 ms", "longest ms")
    print(", ".join(f"{k} {v}" for k, v in zip(headings, cells(load.answers), strict=True)))
    for reason, count in failures(load.answers).most_common():
        print(f"  {count} failed, {reason}")


def sizes(early: dict[str, int], late: dict[str, int], name: str) -> tuple[int, int, int]:
    before, after = early.get(name, 0), late.get(name, 0)
    return before, after, after - before


def main(chosen: argparse.Namespace, folder: Path) -> None:
    lab = make_lab(folder, ARCH, versions=2)
    server = graft(lab, more=["--follow"])
    with running(server, {"workers": 2, "threads": 1}, lab) as answering:
        rate = chosen.rate or bearable(answering, lab, RATE, LOAD)
        with Steady(
            answering.url, lab.photograph.read_bytes(), rate, headers=answering.headers
        ) as load:
            readings = soak(lab, answering.started, load, chosen.minutes)
    show(readings, load, chosen.minutes)


if __name__ == "__main__":
    CHOSEN = options(sys.argv[1:])
    wrk.check_installed()
    end_on_sigterm()
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as temporary:
        main(CHOSEN, Path(temporary))
