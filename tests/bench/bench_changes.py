"""Changes under load: a promotion, a revoked key and a killed replica, and no request fails.

`graft serve --follow --keys` with two replicas gets 10,000 requests at a steady rate, 200 a second
or the share `LOAD` of what it bears, if that is less. On the way the champion moves to the second
version; a key is revoked with which another client asks; and the process of one replica is killed.
Failed requests are counted by their reason, and so is how long each change took: asked are none,
and 10 seconds for the key.

    bench_changes.py --quick      600 requests
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import wrk
from lab import Lab, make_lab
from processes import Started, end_on_sigterm, title
from rich.console import Console
from rich.table import Table
from servers import Running, graft, running
from steady import Answer, Steady, failures, milliseconds

from graft.registry import CHAMPION, promote
from graft.serving.keys import new_key, revoke_key
from report import record

ARCH = "squeezenet1_1"
RATE = 200.0
LOAD = 0.6
"""Of the rate that the server bears, where that is less than `RATE`."""
REVOKED_S = 10.0
"""Seconds in which a revoked key has to be refused."""
SOME = 5.0
"""Requests a second with the key that is revoked."""


@dataclass(frozen=True)
class Change:
    """What was changed on the way."""

    name: str
    at: float
    """When, by `time.monotonic`."""
    seconds: float | None
    """How long it took; None: the load ended before."""


def options(words: list[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, help=f"a second; by default {RATE:.0f}, or less")
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.requests = 600
    return chosen


def bearable(server: Running, lab: Lab, most: float, share: float) -> float:
    """Return `most`, or a share of the requests a second that a server answers, if that is less."""
    wrk.load(server.url, lab.photograph, 2, server.headers)
    bears = wrk.load(server.url, lab.photograph, 4, server.headers).requests_per_second
    print(f"the server bears {bears:.0f} requests/s", flush=True)
    return min(most, share * bears)


def replicas(started: Started) -> list[int]:
    """Return the process ids of a server's replicas."""
    found = []
    for pid in started.pids:
        with contextlib.suppress(OSError):
            if title(pid).startswith("ray::ServeReplica"):
                found.append(pid)
    return found


def promoted(lab: Lab, load: Steady, began: float) -> Change:
    """Return how long a promotion took: until the last answer of the first version.

    Seen when all is over: the engines of the second version race beside the load.
    """
    ends = [one.due + one.seconds for one in load.answers if one.said == f"{lab.name}@1"]
    new = any(one.said == f"{lab.name}@2" for one in load.answers)
    return Change(
        "promotion, to the last answer of the old version",
        began,
        max(0.0, max(ends) - began) if new else None,
    )


def revoked(keys: Path, load: Steady, other: Steady, until: int) -> Change:
    """Revoke the other client's key; it took until its last request that was answered."""
    began = time.monotonic()
    revoke_key(keys, "other")
    load.wait_for(until)
    ends = [one.due + one.seconds for one in other.answers if one.status == 200]
    refused = any(one.status == 401 for one in other.answers)
    return Change(
        "revoked key, to its last answer", began, max(0.0, max(ends) - began) if refused else None
    )


def killed(server: Running, load: Steady, until: int) -> Change:
    """Kill the process of a replica; it took until there was another in its place."""
    before = replicas(server.started)
    began = time.monotonic()
    os.kill(before[0], signal.SIGKILL)
    seconds = None
    while len(load.answers) < until and not load.is_over:
        if seconds is None and set(replicas(server.started)) - set(before):
            seconds = time.monotonic() - began
        time.sleep(0.2)
    return Change("killed replica, to the process in its place", began, seconds)


def show(changes: list[Change], load: Steady, rate: float) -> None:
    """Print what came of it, and append it to bench.jsonl."""
    answers = sorted(load.answers, key=lambda one: one.due)
    table = Table("", "took s", "requests", "failed", "p50 ms", "p99 ms", "longest ms")
    ends = [*(change.at for change in changes[1:]), float("inf")]
    for change, end in zip(changes, ends, strict=True):
        some = [one for one in answers if change.at <= one.due < end]
        table.add_row(
            change.name,
            "not seen" if change.seconds is None else f"{change.seconds:.1f}",
            *cells(some),
        )
    table.add_row("all", "", *cells(answers))
    Console(width=140).print(table)
    failed = failures(answers)
    for reason, count in failed.most_common():
        print(f"  {count} failed, {reason}")
    share = 1 - failed.total() / len(answers)
    record(f"serving, {len(answers)} requests under changes, answered", share, 1.0, "share")
    verdict = "  NOT REACHED" if failed else ""
    print(f"{failed.total()} of {len(answers)} failed at {rate:.0f}/s, asked 0{verdict}")
    revocation = changes[1].seconds
    verdict = "" if revocation is not None and revocation <= REVOKED_S else "  NOT REACHED"
    took = "not seen" if revocation is None else f"{revocation:.1f} s"
    print(f"a revoked key is refused after: {took}, asked {REVOKED_S:.0f} s{verdict}")


def cells(answers: list[Answer]) -> list[str]:
    if not answers:
        return ["0", "", "", "", ""]
    times = milliseconds(answers, 50, 99, 100)
    counts = str(len(answers)), str(failures(answers).total())
    return [*counts, *(f"{value:.0f}" for value in times)]


def main(chosen: argparse.Namespace, folder: Path) -> None:
    lab = make_lab(folder, ARCH, versions=2)
    keys = folder / "keys.json"
    ours, others = ({"X-API-Key": new_key(keys, name, ("predict",))} for name in ("ours", "other"))
    server = graft(lab, more=["--follow", "--keys", keys])
    data = lab.photograph.read_bytes()
    with running(server, {"workers": 2, "threads": 1}, lab, ours) as answering:
        rate = chosen.rate or bearable(answering, lab, RATE, LOAD)
        marks = [round(chosen.requests * share) for share in (0.1, 0.3, 0.5, 1)]
        url, asked = answering.url, answering.headers
        with (
            Steady(url, data, rate, chosen.requests, asked) as load,
            Steady(url, data, SOME, headers={**asked, **others}) as other,
        ):
            load.wait_for(marks[0])
            promoted_at = time.monotonic()
            promote(lab.store, f"{lab.name}@2", CHAMPION)
            load.wait_for(marks[1])
            others_changes = [
                revoked(keys, load, other, marks[2]),
                killed(answering, load, marks[3]),
            ]
    show([promoted(lab, load, promoted_at), *others_changes], load, rate)


if __name__ == "__main__":
    CHOSEN = options(sys.argv[1:])
    wrk.check_installed()
    end_on_sigterm()
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as temporary:
        main(CHOSEN, Path(temporary))
