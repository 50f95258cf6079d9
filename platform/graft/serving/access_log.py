"""The access log: a line of JSON for every request, in a file or a pipe.

In a pod the pipe is ``/proc/1/fd/1``, the container's own stdout, where `kubectl logs` and log
collectors look: what a replica prints goes to a file of Ray's, which ends with the pod.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graft.errors import InputError
from graft.serving.exchange import Exchange

LONGEST_PATH = 200
"""Most characters of a path that a line has: a line is written into a pipe at once, or not at all,
up to 4096 bytes."""
FOR_ALL_TO_READ = 0o644

logger = logging.getLogger(__name__)


class AccessLog:
    """Writes a line for every request, and never holds one up: it drops lines where it would."""

    def __init__(self, path: str):
        """Open a file, which is made if there is none, or a pipe that somebody reads.

        Raises:
            InputError: it cannot be written.
        """
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.open(path, flags, FOR_ALL_TO_READ)
        except OSError as error:
            reason = f"the access log {path} cannot be written: {error.strerror}"
            raise InputError(f"{reason}; name another file, or none") from error
        self._path = path
        self._dropped = 0

    def begun(self, exchange: Exchange) -> None:
        """Nothing is written yet."""

    def ended(self, exchange: Exchange) -> None:
        """Write a line."""
        line = entry(exchange)
        if self._dropped:
            line["dropped_before"] = self._dropped
        try:
            os.write(self._file, (json.dumps(line, separators=(",", ":")) + "\n").encode())
        except OSError as error:  # a full disk; a pipe that is full, or that nobody reads any more
            if not self._dropped:
                reason = error.strerror
                logger.warning(f"lines of the access log {self._path} are dropped: {reason}")
            self._dropped += 1
        else:
            self._dropped = 0


def entry(exchange: Exchange) -> dict[str, Any]:
    """Return what the log says of an exchange; what does not apply is null."""
    predicted = exchange.predicted
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
        "key": exchange.key,
        "method": exchange.method[:10],
        "path": exchange.path[:LONGEST_PATH],
        "status": exchange.status,
        "reason": exchange.reason,
        "model": predicted and predicted.model,
        "class": predicted and predicted.class_[:LONGEST_PATH],
        "probability": predicted and round(predicted.probability, 4),
        "decision": predicted and predicted.decision[:LONGEST_PATH],
        "batch": predicted and predicted.batch,
        "bytes": exchange.received,
        "bytes_sent": exchange.sent,
        "decode_ms": predicted and _ms(predicted.decode_s),
        "wait_ms": predicted and _ms(predicted.wait_s),
        "forward_ms": predicted and _ms(predicted.forward_s),
        "total_ms": _ms(exchange.total_s),
    }


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


@contextlib.contextmanager
def pipe_to_stdout() -> Iterator[str]:
    """Yield the path of a pipe, whose lines come out at this process's stdout.

    Replicas are other processes, and their stdout is a file of Ray's.
    """
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        path = Path(folder, "access-log")
        os.mkfifo(path, 0o600)
        # Open for both ends it never ends, and waits for no writer.
        with path.open("r+b", buffering=0) as ends:
            thread = threading.Thread(target=_pass_on, args=(path,), daemon=True)
            thread.start()
            try:
                yield str(path)
            finally:
                ends.write(b"\n")  # no line of the log is empty: after the last one
                thread.join()


def _pass_on(path: Path) -> None:
    with path.open("rb") as lines:
        for line in lines:
            if line == b"\n":
                return
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                sys.stdout.write(line.decode())
                sys.stdout.flush()
