"""What processes did to a store: one line as an operation begins, and one as it ends.

All times are CLOCK_MONOTONIC, which the processes of a machine share, whatever they take the time
of day to be.
"""

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "fail", "maybe"]
"""`fail`: it had no effect; `maybe`: nobody knows whether it had, or will have."""


@dataclass(frozen=True)
class Operation:
    """One operation of one process on one object."""

    process: str
    kind: str
    """`read`, `write`, `swap` or `create` of an object; see `fences` for those on attempts."""
    key: str
    invoked: float
    """Seconds; nothing of it has happened before."""
    returned: float
    """Seconds; infinite where nobody knows when it ended, or whether."""
    outcome: Outcome
    value: str | None = None
    """What was read or is written; None: no object."""
    expected: str | None = None
    """What a swap found before."""
    number: int | None = None
    """Of an attempt."""


class Log:
    """Writes the operations of this process, so that a kill loses none that has begun."""

    def __init__(self, path: Path, process: str):
        # Appended by single writes: what the process has written, the kernel has.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._process = process
        self._begun = 0

    def invoke(self, kind: str, key: str, **fields: Any) -> int:
        """Note that an operation begins; return what `end` takes."""
        self._begun += 1
        self._write({"begins": self._begun, "kind": kind, "key": key, **fields})
        return self._begun

    def end(self, operation: int, outcome: Outcome, **fields: Any) -> None:
        """Note how it ended; `fields` take the place of those that it began with."""
        self._write({"ends": operation, "outcome": outcome, **fields})

    def _write(self, line: dict[str, Any]) -> None:
        line |= {"process": self._process, "at": time.monotonic()}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_logs(paths: Iterable[Path]) -> list[Operation]:
    """Return the operations in all logs, by when they began."""
    operations = []
    for path in paths:
        begun: dict[int, dict[str, Any]] = {}
        for line in map(json.loads, path.read_text().splitlines()):
            at = line.pop("at")
            if number := line.pop("begins", None):
                begun[number] = line | {"invoked": at, "returned": math.inf, "outcome": "maybe"}
            else:
                fields = begun[line.pop("ends")]
                fields |= line
                if fields["outcome"] != "maybe":
                    fields["returned"] = at
        operations += [Operation(**fields) for fields in begun.values()]
    return sorted(operations, key=lambda operation: operation.invoked)
