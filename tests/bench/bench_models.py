"""Several models on one trunk in one process, against one model alone, and a process for each.

The models are heads on one frozen SqueezeNet, as feature extraction trains them. Requests carry an
image file and go to all models evenly. All servers of a comparison run beside each other, without
Ray Serve, each with as many threads as the machine has CPUs, and are asked in turns; the medians
count. Memory is what a process has for itself, and its part of what it shares with others (PSS).
A process for each of 32 models is not started: 32 times one process stands for them.

    python tests/bench/bench_models.py [--small]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from graft.store import Store
from models import encoded, picture, register_model
from report import report

CORES = len(os.sched_getaffinity(0))
CLIENTS = 16
IMAGES = 32
TOLERANCE = 1e-3
"""Largest difference of a probability from what the model gives alone."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    counts: tuple[int, ...] = (2, 8, 32)
    """Numbers of models in one process."""
    processes: tuple[int, ...] = (2, 8)
    """Those for which a process for each model runs, too."""
    crop: int = 224
    photograph: int = 500
    """Width of the images that are sent."""
    seconds: float = 3.0
    rounds: int = 3


SMALL = Scale(counts=(2, 8), processes=(2,), crop=64, photograph=90, seconds=1.0)


@dataclass(frozen=True)
class Server:
    """A process that answers for some models."""

    process: "subprocess.Popen[str]"
    port: int
    names: tuple[str, ...]

    @property
    def megabytes(self) -> float:
        """Its proportional set size."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


@contextmanager
def running(uri: str, names: Sequence[str], engine: str = "torch") -> Iterator[Server]:
    """Run a server of its own until the block ends."""
    command = [sys.executable, __file__, "--serve", uri, "--engine", engine, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = json.loads(process.stdout.readline())["port"]
            yield Server(process, port, tuple(names))
        finally:
            process.terminate()


def serve(uri: str, names: Sequence[str], engine: str) -> None:
    """Answer for models in this process, without Ray Serve, and print the port."""
    import uvicorn

    from graft.backbones.process_setup import set_up_process
    from graft.serving.alias_follower import Follower, Polling
    from graft.serving.app import create_app
    from graft.serving.deployment import ServedModels
    from graft.serving.engines.choice import Place

    set_up_process(CORES)
    models = ServedModels(tuple(names))
    place = Place(engine, "bench", CORES)  # type: ignore[arg-type]
    followers = Follower.wait_for_some(models.loader(Store.open(uri), place), names, Polling())
    app = create_app(*followers, decode_threads=CORES + 1)

    class Announcing(uvicorn.Server):
        async def startup(self, sockets=None) -> None:  # type: ignore[no-untyped-def]
            await super().startup(sockets)
            port = self.servers[0].sockets[0].getsockname()[1]
            print(json.dumps({"port": port}), flush=True)

    Announcing(uvicorn.Config(app, port=0, log_level="error", access_log=False)).run()


def ask(connection: HTTPConnection, name: str, body: bytes) -> dict[str, float]:
    """Return the probabilities that a model gives."""
    connection.request("POST", f"/v1/models/{name}/predict", body=body)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    assert answer.status == 200, document
    return {each["class"]: each["probability"] for each in document["predictions"]}


def rate(servers: Sequence[Server], files: Sequence[bytes], seconds: float) -> float:
    """Return the requests a second that servers answer, spread evenly over their models."""
    turns = itertools.cycle([(server.port, name) for server in servers for name in server.names])
    bodies = itertools.cycle(files)
    deadline = time.perf_counter() + seconds
    counts = [0] * CLIENTS

    def client(number: int) -> None:
        connections = {s.port: HTTPConnection("127.0.0.1", s.port) for s in servers}
        while time.perf_counter() < deadline:
            port, name = next(turns)
            ask(connections[port], name, next(bodies))
            counts[number] += 1
        for connection in connections.values():
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def difference(one: Server, other: Server, name: str, body: bytes) -> float:
    """Return how far two servers' answers of a model are from each other."""
    first, second = (ask(HTTPConnection("127.0.0.1", s.port), name, body) for s in (one, other))
    return max(abs(first[label] - second[label]) for label in first)


def compare(scale: Scale, root: Path) -> None:
    uri = str(root / "store")
    store = Store.open(uri)
    names = [f"model-{number}" for number in range(max(scale.counts))]
    for number, name in enumerate(names):
        kind = {"freeze": "all", "trunk_seed": 0, "seed": number, "crop": scale.crop}
        register_model(store, name=name, run=f"run-{number}", **kind)
    files = [encoded(picture(seed, scale.photograph)) for seed in range(IMAGES)]

    for count in scale.counts:
        with ExitStack() as stack:
            shared = stack.enter_context(running(uri, names[:count]))
            alone = stack.enter_context(running(uri, names[:1]))
            groups = {"shared": [shared], "alone": [alone]}
            if count in scale.processes:
                others = [stack.enter_context(running(uri, [name])) for name in names[1:count]]
                groups["processes"] = [alone, *others]
            rates: dict[str, list[float]] = {kind: [] for kind in groups}
            for servers in groups.values():
                rate(servers, files, scale.seconds / 3)  # warm
            for _ in range(scale.rounds):
                for kind, servers in groups.items():
                    rates[kind].append(rate(servers, files, scale.seconds))
            assert difference(shared, alone, names[0], files[0]) < TOLERANCE
            ours = statistics.median(rates["shared"])
            title = f"{count} models on one trunk"
            report(
                f"{title}, one model alone", ours, statistics.median(rates["alone"]), "requests/s"
            )
            memory, each = shared.megabytes, alone.megabytes
            if "processes" in groups:
                baseline = statistics.median(rates["processes"])
                report(f"{title}, a process for each", ours, baseline, "requests/s")
                each = statistics.mean(server.megabytes for server in groups["processes"])
            report(f"{title}, a process for each", memory, count * each, "MB", False)


def compare_engines(scale: Scale, root: Path) -> None:
    """Compare with one model alone, each as its fastest engine computes it."""
    uri, count = str(root / "store"), 8
    names = [f"model-{number}" for number in range(count)]
    files = [encoded(picture(seed, scale.photograph)) for seed in range(IMAGES)]
    with running(uri, names, "auto") as shared, running(uri, names[:1], "auto") as fastest:
        pairs = [
            [rate([server], files, scale.seconds) for server in (shared, fastest)]
            for _ in range(scale.rounds + 1)
        ][1:]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    report(
        f"{count} models on one trunk, one alone, both by engine auto", ours, theirs, "requests/s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a small network, in two minutes")
    parser.add_argument("--serve", metavar="STORE", help="used by this program itself")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.names, arguments.engine)
    else:
        size = SMALL if arguments.small else Scale()
        with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
            compare(size, Path(temporary))
            if not arguments.small:
                compare_engines(size, Path(temporary))
