"""Stalls: workers that made no step, and what all of their threads were doing then.

runs/<run>/attempt-<n>/stalls/<rank>.json
"""

import faulthandler
import os
import re
import tempfile
import threading
from datetime import UTC, datetime

from graft.spec import Id, Section
from graft.store import Store, Tell, document_bytes, read_document, unless_damaged

WRITE_S = 5.0
"""How long a process that is about to end tries to record its stall: its store may be the cause."""
MOST_STACKS = 100_000
"""Characters of stacks that are recorded."""
_KEY = re.compile(r".*/attempt-\d{1,9}/stalls/\d{1,9}\.json")


class Stall(Section):
    """A worker that was ended since it made no step."""

    run: Id
    attempt: int
    rank: int
    """The worker's, from 0."""
    seconds: float
    """How long it had made no step."""
    when: str
    """ISO 8601 in UTC."""
    stacks: str
    """What each of its threads was doing, the innermost call first."""

    def __str__(self) -> str:
        when = datetime.fromisoformat(self.when).strftime("%Y-%m-%d %H:%M:%S")
        return (
            f"attempt {self.attempt}: worker {self.rank} made no step for {self.seconds:g} s and "
            f"was ended at {when} UTC; what its threads were doing is in its log, and in --json"
        )


def thread_stacks() -> str:
    """Return the stack of each of this process's threads, as Python's faulthandler writes them."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read(MOST_STACKS)


def record_stall(store: Store, run: str, attempt: int, rank: int, seconds: float) -> None:
    """Write every thread's stack to stderr and into the store, which may take a few seconds."""
    stall = Stall(
        run=run,
        attempt=attempt,
        rank=rank,
        seconds=seconds,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        stacks=thread_stacks(),
    )
    words = f"worker {rank} made no step for {seconds:g} s; its threads:\n{stall.stacks}\n"
    os.write(2, words.encode())  # whatever holds Python's own stream cannot hold this
    key = f"runs/{run}/attempt-{attempt}/stalls/{rank}.json"
    writing = threading.Thread(target=store.write, args=(key, document_bytes(stall)), daemon=True)
    writing.start()
    writing.join(WRITE_S)


def read_stalls(store: Store, run: str, tell: Tell | None = None) -> list[Stall]:
    """Return a run's stalls, by attempt and worker; `tell` is told of damaged ones.

    Raises:
        ObjectDamaged: one is, and nobody is to be told.
    """
    stalls = []
    for folder in store.children(f"runs/{run}/"):
        for key, _ in store.scan(f"runs/{run}/{folder}/stalls/"):
            if _KEY.fullmatch(key) and (stall := _read(store, key, tell)):
                stalls.append(stall)
    return sorted(stalls, key=lambda stall: (stall.attempt, stall.rank))


def _read(store: Store, key: str, tell: Tell | None) -> Stall | None:
    return unless_damaged(lambda: read_document(store, key, Stall), tell)
