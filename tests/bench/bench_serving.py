"""Serving: JPEG in, JSON out, 16 clients on 2 cores, against the bare engine and other servers.

For each architecture, in one run: the bare engine's images a second with decoding, which is the
limit; `graft serve`; Ray Serve with eager torch, by its default settings and tuned; LitServe and
KServe's Python server with the ONNX file that `graft models export` writes, each in an environment
of its own below the user's cache. All decode, resize and forward the same photograph, and answer
with the same document, which is compared. What can be tuned of a server is tuned first: axis after
axis, the best setting is then started afresh and measured for longer. wrk makes the load, on the
same cores; its share is shown. Memory is of all processes of a server.

    bench_serving.py --quick                  one architecture, nothing tuned, two seconds each
    bench_serving.py --neighbour              again beside a process that keeps one core busy
    bench_serving.py --arch resnet18 --only graft,litserve
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bare
import servers
import wrk
from lab import Lab, make_lab
from processes import Memory, busy_neighbour, end_on_sigterm, total
from rich.console import Console
from rich.table import Table
from servers import CannotServeError, Running, Server
from tuning import Setting, fastest, first

from graft.serving.predictor import Predictor
from report import record

ARCHS = {"squeezenet1_1": 3.0, "resnet18": 1.3, "mobilenet_v3_small": 2.0, "vit_b_32": 1.2}
"""Architecture -> how many times tuned Ray Serve's rate is asked, or `EFFICIENCY` of the limit."""
SAID = {"model", "predictions", "timing_ms"}
"""What a server's document has at least; Graft's says what was decided, too."""
EFFICIENCY = 0.8
"""Share of the bare engine's rate that is asked."""
QUIET_SHARE = 0.5
"""Share of the quiet rate that is asked beside a busy neighbour."""
SERVERS = ("graft", "ray-default", "ray-tuned", "litserve", "kserve")
TUNE_S = 3.0


def options(words: list[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", action="append", choices=ARCHS, help="by default all four")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--only", default=",".join(SERVERS), help="servers, by commas: %(default)s")
    parser.add_argument("--engine", default="auto", choices=("auto", "torch", "onnx"))
    parser.add_argument("--neighbour", action="store_true", help="measure beside one, too")
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    chosen = parser.parse_args(words)
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only) - set(SERVERS):
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {','.join(SERVERS)}")
    if chosen.quick:
        chosen.seconds = 2.0
        chosen.arch = chosen.arch or ["squeezenet1_1"]
    chosen.arch = chosen.arch or list(ARCHS)
    return chosen


@dataclass(frozen=True)
class Measured:
    """A server under load."""

    name: str
    setting: Setting
    quiet: wrk.Load
    beside: wrk.Load | None
    """Beside a busy neighbour."""
    memory: Memory


def servers_of(lab: Lab, chosen: argparse.Namespace) -> Iterator[Server]:
    """Return the servers that are measured, Graft's first."""
    makers = {
        "graft": lambda: servers.graft(lab, chosen.engine),
        "ray-default": lambda: servers.ray_serve(lab, tuned=False),
        "ray-tuned": lambda: servers.ray_serve(lab, tuned=True),
        "litserve": lambda: servers.litserve(lab),
        "kserve": lambda: servers.kserve(lab),
    }
    return (makers[name]() for name in SERVERS if name in chosen.only)


def check_answer(running: Running, name: str, expected: dict[str, float]) -> None:
    """Check that a server did the same work: the same probabilities, and what each says.

    Raises:
        CannotServeError: it did not.
    """
    predictions = running.document["predictions"]
    for one in predictions:
        if abs(one["probability"] / expected[one["class"]] - 1) > 0.01:
            raise CannotServeError(f"{name} gives {one}, expected {expected[one['class']]:.4f}")
    if len(predictions) != 5 or not running.document.keys() >= SAID:
        raise CannotServeError(f"{name} answers with another document: {running.document}")


def measure(
    server: Server, lab: Lab, expected: dict[str, float], chosen: argparse.Namespace
) -> Measured:
    """Tune a server, start it with the best setting, and load it.

    Raises:
        CannotServeError: it is not to be had here, or its answers are not the same.
    """

    def short(setting: Setting) -> float:
        with servers.running(server, setting, lab) as running:
            check_answer(running, server.name, expected)
            rate = loaded(running, lab, TUNE_S).requests_per_second
        print(f"  {server.name}, {in_words(setting)}: {rate:.1f} requests/s", flush=True)
        return rate

    setting = first(server.axes) if chosen.quick else fastest(server.axes, short)
    with servers.running(server, setting, lab) as running:
        check_answer(running, server.name, expected)
        quiet = loaded(running, lab, chosen.seconds)
        memory = total(running.started.memory())
        beside = None
        if chosen.neighbour:
            with busy_neighbour(max(os.sched_getaffinity(0))):
                beside = loaded(running, lab, chosen.seconds)
    print(f"  {server.name}: {quiet.requests_per_second:.1f} requests/s", flush=True)
    return Measured(server.name, setting, quiet, beside, memory)


def loaded(running: Running, lab: Lab, seconds: float) -> wrk.Load:
    """Load a server, once it is warm."""
    wrk.load(running.url, lab.photograph, seconds / 3, running.headers)
    return wrk.load(running.url, lab.photograph, seconds, running.headers)


def bare_rates(lab: Lab, seconds: float) -> dict[str, float]:
    """Return the bare engines' images a second with decoding, on all cores."""
    rates = {}
    for engine in ("torch", "onnx"):
        found = bare.rates(
            lab.store.uri,
            lab.version.ref,
            engine,
            lab.exported("onnx"),
            lab.photograph,
            seconds,
            servers.CORES,
        )
        rates |= {f"{engine}, batches of {batch}": rate for batch, rate in found.items()}
    return rates


def compare(lab: Lab, chosen: argparse.Namespace) -> None:
    """Measure all servers of an architecture, and print and record what came of it."""
    predictor = Predictor.load(lab.store, lab.version)
    image = predictor.prepare(lab.photograph.read_bytes())
    expected = dict(
        zip(lab.version.classes, predictor.predict([image]).probabilities[0].tolist(), strict=True)
    )
    bare = bare_rates(lab, TUNE_S if not chosen.quick else 1.0)
    print(f"{lab.arch}: " + "; ".join(f"{name} {rate:.1f}" for name, rate in bare.items()))
    measured = []
    for server in servers_of(lab, chosen):
        try:
            measured.append(measure(server, lab, expected, chosen))
        except CannotServeError as error:
            print(f"  not measured: {error}", flush=True)
    show(lab, bare, measured)
    if measured and measured[0].name == "Graft":
        judge(lab, max(bare.values()), measured)


def show(lab: Lab, bare: dict[str, float], measured: list[Measured]) -> None:
    """Print the table of an architecture."""
    title = f"{lab.arch} ({lab.weights}), {servers.CORES} cores, {wrk.CLIENTS} clients"
    table = Table(title=title)
    for heading in ("", "setting", "requests/s", "Graft / it", "p50 ms", "p99 ms"):
        table.add_column(heading)
    for heading in ("RSS MiB", "PSS MiB", "wrk's CPU", "failed", "beside a neighbour"):
        table.add_column(heading)
    ours = next((one.quiet.requests_per_second for one in measured if one.name == "Graft"), None)

    def ratio(rate: float) -> str:
        return f"{ours / rate:.2f}" if ours and rate else ""

    best = max(bare, key=lambda name: bare[name])
    table.add_row("bare engine", best, f"{bare[best]:.1f}", ratio(bare[best]))
    for one in measured:
        rate, beside = one.quiet.requests_per_second, ""
        if one.beside:
            kept = one.beside.requests_per_second
            beside = f"{kept:.1f} = {kept / rate:.2f}" if rate else "0"
        table.add_row(
            *(one.name, in_words(one.setting), f"{rate:.1f}", ratio(rate)),
            *(f"{one.quiet.p50_ms:.0f}", f"{one.quiet.p99_ms:.0f}"),
            *(f"{size / 2**20:.0f}" for size in (one.memory.rss, one.memory.pss)),
            *(f"{one.quiet.client_share:.1%}", str(one.quiet.failed), beside),
        )
    Console(width=170).print(table)


def judge(lab: Lab, limit: float, measured: list[Measured]) -> None:
    """Print what is asked of Graft beside what it does, and append both to bench.jsonl."""
    ours, *rivals = measured
    rate = ours.quiet.requests_per_second
    asked = {"bare engine": (limit, EFFICIENCY)}
    for rival in rivals:
        theirs = rival.quiet.requests_per_second
        times = ARCHS[lab.arch] if "tuned" in rival.name else 1.0
        asked[rival.name] = theirs, min(times, EFFICIENCY * limit / theirs)
    for name, (theirs, least) in asked.items():
        ratio = record(f"serving {lab.arch}, against {name}", rate, theirs, "requests/s")
        verdict = "" if ratio >= least else "  NOT REACHED"
        print(f"{lab.arch}, against {name}: {ratio:.2f}, asked {least:.2f}{verdict}")
    if ours.beside:
        beside = ours.beside.requests_per_second
        name = f"serving {lab.arch}, beside a busy neighbour"
        kept = record(name, beside, rate, "requests/s")
        verdict = "" if kept >= QUIET_SHARE else "  NOT REACHED"
        print(f"{lab.arch}, beside a busy neighbour: {kept:.2f}, asked {QUIET_SHARE}{verdict}")


def in_words(setting: Setting) -> str:
    words = [f"{name} {value}" for name, value in setting.items()]
    return ", ".join(words) or "as it comes"


def main(chosen: argparse.Namespace) -> None:
    wrk.check_installed()
    end_on_sigterm()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: servers.CORES])
    for arch in chosen.arch:
        with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
            compare(make_lab(Path(folder), arch), chosen)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(options(sys.argv[1:]))
