"""One round: processes that race on a store, and are killed and paused; then its judgement."""

import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_proxy import ALTERED, LOST, RESET, SLOW_DOWN, TRUNCATED, Faults, failing
from graft.store import Store
from histories.checker import UndecidedError, by_key, judge_markers, judge_registers
from histories.clock import skew
from histories.fences import judge_attempts
from histories.operations import Log, Operation, read_logs
from histories.unfenced import unfenced
from histories.versions import judge_versions, versions
from histories.workloads import Process, attempts, holds, jobs, markers, pointers

WORKLOADS: dict[str, Callable[[Process], None]] = {
    "pointers": pointers,
    "markers": markers,
    "attempts": attempts,
    "holds": holds,
    "jobs": jobs,
    "versions": versions,
}

STORES = ("directory", "s3", "lossy", "unfenced")
"""`s3`: the server itself; `lossy`: with faults before it, answers that get lost among them;
`unfenced`: with conditional writes that are not exclusive."""
PROMISED = ("directory", "s3", "lossy")
"""Those of which conditional writes are exclusive."""
PROCESSES = 5
LOSSES = {LOST: 0.05, RESET: 0.02, TRUNCATED: 0.02, ALTERED: 0.02, SLOW_DOWN: 0.005}
_SKEWS_S = {"directory": 30 * 86_400, "s3": 600}
"""How far clocks are off, at most, by kind of store: S3 refuses what is signed a quarter of an hour
before or after its own time."""
_PAUSES_S = (0.01, 0.1, 0.7)
"""For how long a process is stopped; the last one outlasts a lease."""
_PATIENCE_S = 60
"""How long after the end of a round its processes may go on with what they are at."""


@dataclass
class Round:
    """What came of one round."""

    store: str
    workload: str
    seed: int
    operations: int = 0
    unsure: int = 0
    """Operations of which nobody knows what came of them."""
    objects: int = 0
    """Histories: one for each object, or each thing that attempts are at."""
    kills: int = 0
    pauses: int = 0
    skews: list[float] = field(default_factory=list)
    """Seconds by which the processes' clocks are wrong."""
    violations: list[str] = field(default_factory=list)
    late: int = 0
    """See `fences.Verdict`."""
    undecided: str = ""
    """Why nothing is said of it; empty: something is."""


@contextlib.contextmanager
def endpoints(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run what stands before an S3 server; yield URLs by kind of store."""
    with (
        _forked(unfenced(environment)) as without,
        _forked(_lossy(environment["AWS_ENDPOINT_URL"])) as lossy,
    ):
        yield {"s3": environment["AWS_ENDPOINT_URL"], "lossy": lossy, "unfenced": without}


@contextlib.contextmanager
def _lossy(target: str) -> Iterator[str]:
    with failing(target, Faults(LOSSES, storm_s=0.1)) as proxy:
        yield proxy.url


@contextlib.contextmanager
def _forked(server: "contextlib.AbstractContextManager[str]") -> Iterator[str]:
    """Run a server with threads in a process of its own, since this one forks; yield its URL."""
    reading, writing = os.pipe()

    def serve() -> None:
        with server as url:
            os.write(writing, url.encode())
            signal.pause()

    process = _fork(serve)
    try:
        yield os.read(reading, 1000).decode()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reading)
        os.close(writing)


def _fork(work: Callable[[], object]) -> int:
    """Return the id of a new process that does some work, and ends."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def play(store_uri: str, kind: str, workload: str, seed: int, seconds: float) -> Round:
    """Play a round on an empty store, and judge it.

    Args:
        store_uri: the store; the endpoint is the environment's.
        kind: one of STORES.
        workload: one of WORKLOADS.
        seed: of what the processes do, and of what is done to them.
        seconds: how long.

    Raises:
        RuntimeError: a process ended with an error that is none of the store's.
    """
    result = Round(kind, workload, seed)
    with tempfile.TemporaryDirectory(prefix="graft-history-") as folder:
        _Race(Store.open(store_uri), Path(folder), result, seconds).run()
        history = read_logs(sorted(Path(folder).iterdir()))
    result.operations = len(history)
    result.unsure = sum(each.outcome == "maybe" for each in history)
    result.objects = len(by_key(history))
    judge(result, history)
    return result


def judge(result: Round, history: list[Operation]) -> None:
    """Add to a round's result what its history shows."""
    try:
        if result.workload in ("pointers", "markers"):
            result.violations += judge_registers(history, repeated=result.store == "lossy")
            if result.workload == "markers":
                result.violations += judge_markers(history)
        else:
            if result.workload == "versions":
                result.violations += judge_versions(history)
                history = [each for each in history if each.kind == "claim"]
            verdict = judge_attempts(history, atomic=result.workload == "jobs")
            result.violations += verdict.problems
            result.late = verdict.late
    except UndecidedError as error:
        result.undecided = str(error)


class _Race:
    """The processes of a round, and what is done to them."""

    def __init__(self, store: Store, folder: Path, result: Round, seconds: float):
        self.store, self.folder, self.result = store, folder, result
        self.random = random.Random(f"{result.seed} {result.store} {result.workload}")
        self.began = time.monotonic()
        self.ends = self.began + seconds
        self.started = 0
        self.alive: set[int] = set()
        self.stopped: dict[int, float] = {}
        """Until when."""

    def run(self) -> None:
        """Start the processes, torment them, and wait for their end."""
        for _ in range(PROCESSES):
            self._start()
        try:
            while time.monotonic() < self.ends:
                time.sleep(self.random.uniform(0.01, 0.1))
                self._resume(time.monotonic())
                self._torment()
            self._resume(math.inf)
            self._wait()
        finally:
            for process in self.alive:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def _torment(self) -> None:
        """Kill a process, and start another one, or stop it for a while."""
        running = sorted(self.alive - self.stopped.keys())
        if len(running) < 2:
            return
        victim = self.random.choice(running)
        if self.random.random() < 0.4:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            self.alive.remove(victim)
            self.result.kills += 1
            self._start()
        else:
            os.kill(victim, signal.SIGSTOP)
            self.stopped[victim] = time.monotonic() + self.random.choice(_PAUSES_S)
            self.result.pauses += 1

    def _resume(self, now: float) -> None:
        """Let those go on that were stopped until now."""
        for process in [process for process, until in self.stopped.items() if until <= now]:
            os.kill(process, signal.SIGCONT)
            del self.stopped[process]

    def _start(self) -> None:
        self.started += 1
        name, seed = f"p{self.started}", self.random.random()
        most = _SKEWS_S.get(self.result.store, _SKEWS_S["s3"])
        seconds = self.random.choice((0.0, self.random.uniform(-most, most)))
        self.result.skews.append(round(seconds))

        def work() -> None:
            if seconds:
                skew(seconds)
            log = Log(self.folder / name, name)
            lossy = self.result.store == "lossy"
            rng = random.Random(seed)
            process = Process(self.store, log, name, rng, self.began, self.ends, lossy)
            WORKLOADS[self.result.workload](process)

        self.alive.add(_fork(work))

    def _wait(self) -> None:
        """Wait for all; who does not end in time is killed, as others were."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.alive and time.monotonic() < deadline:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process in self.alive:
                self.alive.remove(process)
                if code := os.waitstatus_to_exitcode(status):
                    raise RuntimeError(f"{self.result}: a process ended with {code}, see above")
            elif not process:
                time.sleep(0.02)


def as_row(result: Round) -> dict[str, Any]:
    """Return a round as a line of the table."""
    skews = [abs(each) for each in result.skews]
    return vars(result) | {"skews": max(skews, default=math.nan), "processes": len(skews)}
