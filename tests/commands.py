"""Processes of the tests that need torch, without a new import of it for each.

A server process imports what every command needs, once, and forks for each: what `graft` gets is
what it would get from a shell, its environment and its folder included. What a command refuses is
cheaper still in the test's own process (`main`). The console script itself is a test of
`subprocess`.
"""

import atexit
import contextlib
import functools
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

GRAFT = Path(sys.executable).with_name("graft")
TIMEOUT_S = 280

_server = multiprocessing.get_context("forkserver")
# None of graft's own: what a module reads from the environment, it reads in the command.
_server.set_forkserver_preload(
    [
        *("torch", "torchvision", "timm", "safetensors.torch", "numpy", "PIL.Image"),
        *("pyarrow.parquet", "boto3", "httpx", "pydantic", "ruamel.yaml", "typer"),
        *("rich.console", "rich.table", "matplotlib.figure", "matplotlib.backends.backend_agg"),
        *("scipy.special", "scipy.stats", "sklearn.metrics", "sklearn.linear_model"),
        *("sklearn.model_selection", "sklearn.pipeline", "sklearn.preprocessing"),
    ]
)

Done = subprocess.CompletedProcess[str]
"""A command that has ended: returncode, stdout, stderr."""


def graft(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    timeout: float = TIMEOUT_S,
) -> Done:
    """Run `graft` with these arguments.

    Args:
        arguments: what follows `graft`.
        cwd: its folder; this process's, if None.
        env: changes of this process's environment.
        without: modules that cannot be imported, as where they are not installed.
        timeout: seconds after which it is killed.
    """
    with Running(*arguments, cwd=cwd, env=env, without=without) as running:
        return running.wait(timeout)


class Running:
    """A `graft` that runs beside the test."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        without: tuple[str, ...] = (),
    ):
        self._words = ["graft", *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        for path in (self._out, self._err):
            path.touch()
        place = str(cwd or Path.cwd())
        self._process = Forked(
            _be_graft, self._words, place, self._out, self._err, without, env=env
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._folder.cleanup()

    def until(self, said: str) -> None:
        """Wait until it has said what matches on stderr."""
        deadline = time.monotonic() + TIMEOUT_S
        while not re.search(said, self._err.read_text()):
            assert self._process.lives, f"it has ended: {self._err.read_text()}"
            assert time.monotonic() < deadline, f"it says: {self._err.read_text()}"
            time.sleep(0.01)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send(signal.SIGINT)

    def wait(self, timeout: float = TIMEOUT_S) -> Done:
        """Wait for its end; after so many seconds, kill it."""
        code = self._process.wait(timeout)
        return Done(self._words, code, self._out.read_text(), self._err.read_text())


def main(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Done:
    """Run `graft` in this process: what it refuses before it has done anything, and what it shows.

    `env`: changes of this process's environment.
    """
    import pytest  # not in every process that is forked

    from graft.cli import main as command

    words, code = ["graft", *map(str, arguments)], 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", words)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        try:
            command.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(words, code, out.getvalue(), err.getvalue())


class Forked:
    """A process that the server has forked, to call a function of a module with arguments."""

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: object,
        env: Mapping[str, str] | None = None,
    ):
        _ensure_server()
        self._process: ForkServerProcess = _server.Process(
            target=_run, args=(function, arguments, os.environ | (env or {}))
        )
        self._process.start()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it now, if it has not ended."""
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code; after `timeout` seconds, kill it.

        Raises:
            TimeoutError: it was killed.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"killed after {timeout:.0f} s")
        return int(self._process.exitcode or 0)


@functools.cache
def _ensure_server() -> None:
    """Start the server, which is no test's own: what coverage sees in it has no test's name."""
    test = os.environ.pop("GRAFT_TEST_CONTEXT", None)
    forkserver.ensure_running()
    if test is not None:
        os.environ["GRAFT_TEST_CONTEXT"] = test


def _run(
    function: Callable[..., None],
    arguments: tuple[object, ...],
    environment: dict[str, str],
) -> None:
    """Be that process."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    _measure()
    status = 0
    # As at the end of any process, which multiprocessing leaves out.
    try:
        function(*arguments)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        atexit._run_exitfuncs()
    sys.exit(status)


def _measure() -> None:
    """Where coverage is measured, this process's lines are its test's."""
    if context := os.environ.get("GRAFT_TEST_CONTEXT"):
        import coverage

        if running := coverage.Coverage.current():
            running.switch_context(context)


def _be_graft(words: list[str], cwd: str, out: Path, err: Path, without: tuple[str, ...]) -> None:
    os.chdir(cwd)
    sys.modules |= dict.fromkeys(without)  # type: ignore[arg-type]
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = words
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from graft.cli.main import script

    script()
