"""Load by wrk: so many connections, each with one request after another, of one body."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLIENTS = 16
_SCRIPT = """
local file = assert(io.open(%(body)s, "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
%(headers)s
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %%d, "seconds": %%.6f, "failed": %%d, "p50_ms": %%.3f, "p99_ms": %%.3f}\\n',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Load:
    """What came of a load."""

    requests_per_second: float
    """Of those that were answered with less than 400."""
    failed: int
    p50_ms: float
    p99_ms: float
    client_share: float
    """Of all cores, what wrk itself took."""


def check_installed() -> None:
    """Exit where there is no wrk, and say how to get it."""
    if shutil.which("wrk") is None:
        sys.exit("no wrk here, which makes the load; install it: apt-get install wrk")


def script(body: Path, headers: Mapping[str, str]) -> str:
    """Return the Lua program that has wrk post a file, and print its figures as JSON."""
    lines = [f"wrk.headers[{_quoted(name)}] = {_quoted(headers[name])}" for name in headers]
    return _SCRIPT % {"body": _quoted(str(body)), "headers": "\n".join(lines)}


def load(url: str, body: Path, seconds: float, headers: Mapping[str, str]) -> Load:
    """Post a file to `url` on `CLIENTS` connections for so many seconds."""
    program = body.with_suffix(".lua")
    program.write_text(script(body, headers))
    whole = max(1, round(seconds))  # wrk takes whole ones
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{whole}s", "--timeout", "30s"]
    before = _cpu_seconds()
    done = subprocess.run(
        [*command, "-s", str(program), url],
        capture_output=True,
        text=True,
        timeout=whole + 90,
    )
    spent = _cpu_seconds() - before
    if done.returncode:
        raise RuntimeError(f"wrk: {(done.stderr or done.stdout).strip()}")
    return parsed(done.stdout, spent)


def parsed(said: str, cpu_seconds: float) -> Load:
    """Return the figures in wrk's output."""
    figures = json.loads(said.splitlines()[-1])
    seconds = figures["seconds"]
    return Load(
        requests_per_second=max(0, figures["requests"] - figures["failed"]) / seconds,
        failed=figures["failed"],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        client_share=cpu_seconds / seconds / len(os.sched_getaffinity(0)),
    )


def _quoted(text: str) -> str:
    """Return a Lua string."""
    return json.dumps(text, ensure_ascii=False)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
