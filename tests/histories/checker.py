"""Judges histories: could these objects have been one register each, markers exclusive?

PyPI has no checker of linearizability (Porcupine is Go, Knossos Clojure), and this one needs few
lines: Wing and Gong's search, with Lowe's memo of the configurations that lead nowhere, object by
object, since a history is linearizable if that of each object is.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from histories.operations import Operation

CONFIGURATIONS = 1_000_000
"""So many are looked at before a history counts as undecided."""


class UndecidedError(Exception):
    """The search was given up."""


class _Configuration(NamedTuple):
    done: int
    """A bit for each operation that has its place."""
    state: str | None


def linearization(
    history: Iterable[Operation], initial: str | None = None, limit: int = CONFIGURATIONS
) -> list[Operation] | None:
    """Return an order in which one register gives all these answers; None: there is none.

    Each operation takes effect at one moment between its beginning and its end. One that may or
    may not have had an effect is left out, or has it between those, too; mostly it has no end.

    Args:
        history: operations on one object: `read`, `write`, `swap`, `create`.
        initial: what the object holds before the first of them; None: there is no object.
        limit: of configurations.

    Raises:
        UndecidedError: that many did not suffice.
    """
    operations = sorted(
        (each for each in history if each.outcome == "ok" or _changes(each)),
        key=lambda each: each.invoked,
    )
    required = sum(1 << place for place, each in enumerate(operations) if each.outcome != "maybe")
    start = _Configuration(0, initial)
    came_from: dict[_Configuration, tuple[_Configuration, int] | None] = {start: None}
    stack = [start]
    while stack:
        here = stack.pop()
        if here.done & required == required:
            return _path(operations, came_from, here)
        if len(came_from) > limit:
            raise UndecidedError(f"{len(operations)} operations, {limit} configurations")
        for place, state in _steps(operations, here):
            there = _Configuration(here.done | 1 << place, state)
            if there not in came_from:
                came_from[there] = here, place
                stack.append(there)
    return None


def _changes(operation: Operation) -> bool:
    """Whether a place for it says something: not if it is a read whose answer nobody knows."""
    return operation.kind != "read"


def _steps(operations: Sequence[Operation], here: _Configuration) -> list[tuple[int, str | None]]:
    """Return what may come next: the place of an operation, and the state after it."""
    steps: list[tuple[int, str | None]] = []
    earliest_end = _earliest_end(operations, here.done)
    last_begin = operations[here.done.bit_length() - 1].invoked if here.done else -math.inf
    first_chance = math.inf  # to have an effect, of those that may have one, and end
    for place in range(_first_open(here.done), len(operations)):
        operation = operations[place]
        if operation.invoked > earliest_end:
            break
        if here.done >> place & 1:
            continue
        legal, state = _apply(operation, here.state)
        if operation.outcome == "maybe":
            if operation.returned > last_begin:
                first_chance = min(first_chance, operation.returned)
                if legal and state != here.state:
                    steps.append((place, state))
        elif legal and state == here.state and operation.invoked < first_chance:
            return [(place, state)]  # it is right here, and changes nothing for any other
        elif legal:
            steps.append((place, state))
    return steps


def _first_open(done: int) -> int:
    """Return the place of the first operation that has none in the order yet."""
    return (~done & (done + 1)).bit_length() - 1


def _earliest_end(operations: Sequence[Operation], done: int) -> float:
    """Return when the first of the open operations ends: what begins later comes after it."""
    earliest = math.inf
    for place in range(_first_open(done), len(operations)):
        operation = operations[place]
        if operation.invoked > earliest:
            break
        if not done >> place & 1 and operation.outcome != "maybe":
            earliest = min(earliest, operation.returned)
    return earliest


def _apply(operation: Operation, state: str | None) -> tuple[bool, str | None]:
    """Return whether a register in this state gives that answer, and its state afterwards."""
    failed = operation.outcome == "fail"
    match operation.kind:
        case "read":
            return state == operation.value, state
        case "write":
            return True, state if failed else operation.value
        case "create" | "swap":
            holds = state == operation.expected  # None for `create`
            return holds != failed, state if failed else operation.value
    raise ValueError(f"{operation.kind} is nothing that a register does")


def _path(
    operations: Sequence[Operation],
    came_from: dict[_Configuration, tuple[_Configuration, int] | None],
    end: _Configuration,
) -> list[Operation]:
    path = []
    while step := came_from[end]:
        end, place = step
        path.append(operations[place])
    return path[::-1]


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations on each object."""
    objects: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        objects[operation.key].append(operation)
    return dict(objects)


def judge_registers(history: Iterable[Operation], repeated: bool = False) -> list[str]:
    """Return what is wrong with the histories of objects, a line each.

    Args:
        history: of all the objects.
        repeated: a write may take effect twice before it ends: `Store.point` swaps again where
            another has followed a swap of its own whose answer got lost.

    Raises:
        UndecidedError: for one of them that was not found out.
    """
    operations = list(history)
    if repeated:
        writes = [each for each in operations if (each.kind, each.outcome) == ("write", "ok")]
        operations += [replace(each, outcome="maybe") for each in writes]
    return [
        f"{key}: no order explains what was read and written"
        for key, of_one in by_key(operations).items()
        if linearization(of_one) is None
    ]


def judge_markers(history: Iterable[Operation]) -> list[str]:
    """Return where a marker was not exclusive, a line each: what it is named by.

    That these are linearizable says the same; this says which way they are not.
    """
    problems = []
    for key, operations in by_key(history).items():
        won = [each for each in operations if each.kind == "create" and each.outcome == "ok"]
        if len(won) > 1:
            problems.append(f"{key}: {len(won)} creators won")
        seen = {each.value for each in operations if _seen(each)}
        written = {each.value for each in won} or {
            each.value for each in operations if each.kind == "create" and each.outcome == "maybe"
        }
        problems += [f"{key}: {value} was read, and did not win" for value in seen - written]
        if len(seen) > 1:
            problems.append(f"{key}: readers saw {len(seen)} of them")
    return problems


def _seen(operation: Operation) -> bool:
    is_read = operation.kind == "read" and operation.outcome == "ok"
    return is_read and operation.value is not None
