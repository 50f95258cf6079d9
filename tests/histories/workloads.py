"""What a process does to a store, over and over, while others do the same."""

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from graft.activations.lease import LeaseTerms
from graft.cluster.job_attempts import JobAttempt, begin_attempt
from graft.cluster.job_records import JobRecord, record_key
from graft.errors import (
    InputError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    RunFailed,
    StoreError,
)
from graft.registry import Fence
from graft.store import Store, find_document
from graft.training.attempt_pointer import (
    AttemptPointer,
    check_attempt,
    claim_attempt,
    hold_attempt,
)
from graft.training.run_records import Result, publish_result, read_result
from histories.operations import Log

POINTERS = 3
"""Objects that all processes move."""
TURN_S = 0.15
"""All processes go on to the next marker, run or job so often."""
TERMS = LeaseTerms(expiry_s=0.4, pause=lambda seconds: time.sleep(min(seconds, 0.05)))


@dataclass
class Process:
    """One process of a history."""

    store: Store
    log: Log
    name: str
    random: random.Random
    began: float
    """When the history began, on the monotonic clock."""
    ends: float
    """When it is to end."""
    lossy: bool
    """Whether answers get lost: then a swap that failed may have had its effect before, and been
    sent again by boto3, and another's may have followed it."""
    _values: int = 0

    def value(self) -> str:
        """Return what nobody has written yet."""
        self._values += 1
        return f"{self.name}.{self._values}"

    def lasts(self) -> bool:
        """Whether there is another operation to be done."""
        return time.monotonic() < self.ends

    def turn(self, length: int = 1) -> int:
        """Return the number of what all processes are at now."""
        return int((time.monotonic() - self.began) / (TURN_S * length))

    def do(
        self,
        kind: str,
        key: str,
        work: Callable[[], dict[str, Any] | None],
        refusal: tuple[type[Exception], ...] = (),
        **fields: Any,
    ) -> bool:
        """Do an operation and note what came of it; return whether it was done.

        `work` returns what is only known afterwards; `refusal` is what it raises where it has had
        no effect.
        """
        operation = self.log.invoke(kind, key, **fields)
        try:
            results = work()
        except refusal:
            unsure = self.lossy and kind == "swap"
            self.log.end(operation, "maybe" if unsure else "fail")
            return False
        except StoreError:  # whatever it was, it may have come after the effect
            self.log.end(operation, "maybe")
            return False
        self.log.end(operation, "ok", **(results or {}))
        return True

    def pause(self) -> None:
        """Let others go on."""
        time.sleep(self.random.expovariate(1 / 0.004))


def pointers(process: Process) -> None:
    """Read, point and compare-and-swap a few pointers."""
    store, etags = process.store, dict[str, tuple[str, str]]()
    while process.lasts():
        key = f"pointer-{process.random.randrange(POINTERS)}"
        choice = process.random.random()
        value = process.value()
        if choice < 0.3 and key in etags:
            etag, before = etags[key]
            swap = partial(store.replace, key, value.encode(), etag)
            process.do("swap", key, swap, (ObjectChanged,), expected=before, value=value)
        elif choice < 0.5:
            process.do("write", key, partial(store.point, key, value.encode()), value=value)
        else:
            process.do("read", key, partial(_read, store, key, etags))
        process.pause()


def _read(store: Store, key: str, etags: dict[str, tuple[str, str]]) -> dict[str, Any]:
    try:
        current = store.read(key)
    except ObjectNotFound:
        return {"value": None}
    etags[key] = current.etag, current.data.decode()
    return {"value": current.data.decode()}


def markers(process: Process) -> None:
    """Create one marker after the other, and read those that there are."""
    while process.lasts():
        number = process.turn()
        key, value = f"marker-{number}", process.value()
        if process.random.random() < 0.4:
            create = partial(process.store.create, key, value.encode())
            process.do("create", key, create, (ObjectExists,), value=value)
        earlier = f"marker-{max(0, number - process.random.randrange(2))}"
        process.do("read", earlier, partial(_read, process.store, earlier, {}))
        process.pause()


def attempts(process: Process) -> None:
    """Claim attempts at runs, check that they are current, and publish a result."""
    store = process.store
    while process.lasts():
        run = f"run-{process.turn(4)}"
        pointers: list[AttemptPointer] = []
        claim = partial(_claim, lambda run=run: claim_attempt(store, f"runs/{run}"), pointers)
        process.do("claim", run, claim)
        for pointer in pointers:
            _work(process, run, pointer, checks=process.random.randrange(1, 5))


def holds(process: Process) -> None:
    """Hold attempts by their lease, as sweeps, reports and imports do."""
    store = process.store
    while process.lasts():
        run = f"run-{process.turn(8)}"
        with contextlib.ExitStack() as held:
            pointers: list[AttemptPointer] = []
            hold = partial(_hold, held, store, f"runs/{run}")
            process.do("claim", run, partial(_claim, hold, pointers), (_AtWorkError,))
            for pointer in pointers:
                # For longer than a lease lasts, if it is paused meanwhile.
                _work(process, run, pointer, checks=process.random.randrange(5, 40))
        process.pause()


class _AtWorkError(Exception):
    """Another process holds it, or has ended it."""


def _hold(held: contextlib.ExitStack, store: Store, folder: str) -> AttemptPointer:
    try:
        fence = held.enter_context(hold_attempt(store, folder, lambda text: None, terms=TERMS))
    except StoreError:
        raise
    except InputError as error:
        raise _AtWorkError from error
    assert isinstance(fence, partial)  # of check_attempt
    pointer: AttemptPointer = fence.args[2]
    return pointer


def _claim(claim: Callable[[], AttemptPointer], pointers: list[AttemptPointer]) -> dict[str, Any]:
    pointers.append(claim())
    return {"number": pointers[-1].attempt}


def _work(process: Process, run: str, pointer: AttemptPointer, checks: int) -> None:
    """Check an attempt a few times, and publish its result at the end, as a run does."""
    store, number = process.store, pointer.attempt
    fence: Fence = partial(check_attempt, store, f"runs/{run}", pointer)
    for _ in range(checks):
        if not process.do("check", run, partial(_done, fence), (RunFailed,), number=number):
            break
        process.pause()
    if process.random.random() < 0.3:
        result = result_of(run, number, process.name)
        publish = partial(_publish, store, pointer, result)
        process.do("publish", run, publish, (RunFailed, _AtWorkError), number=number)
    process.do("result", run, partial(_number_of, store, run))
    process.pause()


def _publish(store: Store, pointer: AttemptPointer, result: Result) -> None:
    if publish_result(store, pointer, result) != result:
        raise _AtWorkError


def _done(work: Callable[[], object]) -> None:
    work()


def _number_of(store: Store, run: str) -> dict[str, Any]:
    result = read_result(store, run)
    return {"number": result.attempt if result else None}


def result_of(run: str, attempt: int, process: str) -> Result:
    """Return a result of which only the run, the attempt and who made it say something."""
    return Result(
        run=run,
        model=None,
        weights="last",
        epoch=1,
        metrics={"made": {"by": process}},
        seconds=0,
        images_per_second=0,
        trunk_digest="0" * 64,
        freeze=0,
        dataset="colours@1",
        attempt=attempt,
        history=(),
        created="",
    )


def jobs(process: Process) -> None:
    """Begin attempts at jobs; they fail, or succeed, which is recorded once."""
    store = process.store
    while process.lasts():
        job = f"job-{process.turn(4)}"
        begun: list[JobAttempt] = []
        refused = (_AtWorkError, RunFailed)
        process.do("claim", job, partial(_begin, store, job, begun), refused)
        for attempt in begun:
            process.pause()
            number = attempt.number
            if process.random.random() < 0.3:
                succeed = partial(attempt.succeed, f"m@{number}")
                process.do("publish", job, succeed, (RunFailed,), number=number)
            else:
                fail = partial(attempt.fail, "lost", False)
                process.do("failure", job, fail, (RunFailed,), number=number)
        process.do("result", job, partial(_success_of, store, job))
        process.pause()


def _begin(store: Store, job: str, begun: list[JobAttempt]) -> dict[str, Any]:
    try:
        begun.append(begin_attempt(store, job, "finetune"))
    except StoreError:
        raise
    except InputError as error:  # it has succeeded
        raise _AtWorkError from error
    return {"number": begun[-1].number}


def _success_of(store: Store, job: str) -> dict[str, Any]:
    record = find_document(store, record_key(job), JobRecord)
    succeeded = record is not None and record.state == "succeeded"
    return {"number": record.attempt if record and succeeded else None}
