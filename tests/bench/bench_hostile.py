"""Serving among those who mean no good: ten thousand hostile requests, and good ones beside them.

Prints what came of each kind of request, the memory of the replica and of HAProxy after the first
thousand and at the end, and how long good requests took, alone and meanwhile. The last line says
what is not as it has to be: a hostile request of which came something else than a refusal, a good
one without an answer, one of a hundred that took more than 2 s, memory that grew by 5 %.

A 503 that says when to try again (Retry-After) is a refusal: doors give it where all is taken, by
whomever. It is counted apart. Any other 5xx is a fault, and so is silence for 90 s.

    make bench, or: PYTHONPATH=tests python tests/bench/bench_hostile.py [--count 10000] [--seed 0]
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clients import LATER, Clients, Outcome, attack_all
from graft.store import Store
from hostile import attacks
from models import encoded, picture, register_model
from report import report
from served import Served, serving

MODEL = "ants-bees"
PREDICT = f"/v1/models/{MODEL}/predict"
FIRST = 1_000
QUIET = 200
"""Good requests that are timed before the others come."""
AT_ONCE = 32
LONGEST_S = 2.0
MOST_GROWTH = 0.05
CONSOLE = Console(width=140)


def percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1]


def show_outcomes(outcomes: Counter[Outcome]) -> None:
    table = Table("request", "answers")
    for kind in sorted({outcome.kind for outcome in outcomes}):
        answers = {
            f"{outcome.status or outcome.said}"
            + (f" ({outcome.said})" if outcome.status and outcome.said != "JSON" else ""): count
            for outcome, count in sorted(outcomes.items(), key=lambda item: -item[1])
            if outcome.kind == kind
        }
        table.add_row(kind, ", ".join(f"{count} x {answer}" for answer, count in answers.items()))
    CONSOLE.print(table)


def show_memory(first: dict[str, int], last: dict[str, int]) -> None:
    table = Table("program", f"MiB after {FIRST}", "MiB at the end")
    for program in sorted(first | last):
        table.add_row(program, *(f"{taken.get(program, 0) / 2**20:.1f}" for taken in (first, last)))
    CONSOLE.print(table)


def of_replica(taken: dict[str, int]) -> int:
    """Return the bytes of the replica and of HAProxy."""
    return sum(
        size
        for program, size in taken.items()
        if program.startswith(("ray::ServeReplica", "haproxy"))
    )


def images(first: int) -> list[bytes]:
    return [encoded(picture(first)), encoded(picture(first + 1))]


def bench(served: Served, count: int, seed: int) -> None:
    with Clients(served.port, PREDICT, images(0)) as quiet:
        quiet.wait_for(QUIET)
    coming = attacks(seed, MODEL, count)
    with Clients(served.port, PREDICT, images(2)) as clients:
        outcomes = asyncio.run(attack_all(itertools.islice(coming, FIRST), served.port, AT_ONCE))
        first = served.memory()
        outcomes += asyncio.run(attack_all(coming, served.port, AT_ONCE))
        last = served.memory()
    show_outcomes(outcomes)
    show_memory(first, last)
    faults = {outcome: times for outcome, times in outcomes.items() if outcome.is_fault}
    refused = sum(times for outcome, times in outcomes.items() if outcome.said == LATER)
    growth = of_replica(last) / of_replica(first) - 1
    p50, p99 = (percentile(clients.seconds, percent) for percent in (50, 99))
    CONSOLE.print(
        f"{outcomes.total():,} hostile requests: {sum(faults.values())} faults {faults or ''}, "
        f"{refused} told to try again\n"
        f"{len(clients.seconds):,} good ones meanwhile: {len(clients.failures)} failed "
        f"{clients.failures[:5] or ''}, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms\n"
        f"memory of the replica and HAProxy: {growth:+.1%}"
    )
    report("hostile requests, p99 of others", p99, percentile(quiet.seconds, 99), "s", False)
    report("hostile requests, memory", of_replica(last), of_replica(first), "bytes", False)
    broken = {
        "faults": bool(faults),
        "good requests that failed": bool(clients.failures),
        f"p99 over {LONGEST_S} s": p99 > LONGEST_S,
        f"memory grew by more than {MOST_GROWTH:.0%}": growth > MOST_GROWTH,
    }
    found = ", ".join(what for what, is_so in broken.items() if is_so)
    CONSOLE.print(f"NOT as it has to be: {found}" if found else "all is as it has to be")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        store = Path(temporary) / "store"
        register_model(Store.open(str(store)))
        with serving(str(store), MODEL, Path(temporary) / "log") as served:
            bench(served, arguments.count, arguments.seed)
            print((Path(temporary) / "log").read_text(), file=sys.stderr)
