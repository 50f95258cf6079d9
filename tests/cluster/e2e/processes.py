"""The programs that make the cluster up: started, watched, stopped."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.e2e.machine import LOGS


class Processes:
    """Programs that run until `close`, each with a log file in LOGS."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        with (LOGS / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then end these in order
            )

    def wait_for(self, what: str, condition: Callable[[], object], seconds: float = 60) -> None:
        """Poll until the condition holds; an error of its own means not yet."""
        deadline = time.monotonic() + seconds
        why: object = "it does not hold"
        while True:
            try:
                if condition():
                    return
            except (OSError, subprocess.CalledProcessError) as error:
                why = getattr(error, "stderr", None) or error
            self.check()
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s: {why}"
            time.sleep(0.1)

    def check(self) -> None:
        """Fail where one has ended, with the end of its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                said = (LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-20:]
                raise AssertionError(
                    "\n".join([f"{name} ended with exit code {process.returncode}:", *said])
                )

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill all of them at once: nothing of theirs is kept."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self._running.values():
            process.wait()
