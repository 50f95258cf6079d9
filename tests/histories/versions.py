"""Runs that register models and move an alias, each in several attempts; and the judge of that.

claim     of the next attempt at a run
register  ok: with the version that the run has
promote   ok: moved the alias there, or it stayed at a newer one
alias     read: every move that it has made, as FROM>TO
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from graft.errors import RunFailed
from graft.registry import Mover, promote_new, register
from graft.registry.aliases import Alias
from graft.registry.versions import Lineage, ModelDraft, ModelVersion, read_version
from graft.spec import Contract, LinearHead
from graft.store import Store, find_document
from graft.training.attempt_pointer import AttemptPointer, check_attempt, claim_attempt
from histories.operations import Operation
from histories.workloads import Process

MODEL, ALIAS = "colours", "candidate"
_MOVER = Mover("nobody", "a history")


def versions(process: Process) -> None:
    """Claim attempts at runs, each of which registers a version and moves the alias to it."""
    store = process.store
    while process.lasts():
        run = f"run-{process.turn(3)}"
        pointers: list[AttemptPointer] = []
        process.do("claim", run, partial(_claim, store, run, pointers))
        for pointer in pointers:
            fence = partial(check_attempt, store, f"runs/{run}", pointer)
            made: list[ModelVersion] = []

            def registered(fence=fence, run=run, made=made) -> dict[str, Any]:  # type: ignore[no-untyped-def]
                made.append(register(store, _draft(run), b"tail", b"golden", fence))
                return {"value": str(made[-1].version)}

            number = pointer.attempt
            process.do("register", run, registered, (RunFailed,), number=number)
            for version in made:
                move = partial(promote_new, store, version, ALIAS, _MOVER, fence)
                process.do(
                    "promote",
                    ALIAS,
                    lambda move=move: {"expected": "; ".join(move())},
                    (RunFailed,),
                    value=str(version.version),
                )
        process.do("alias", ALIAS, partial(_moves, store))
        process.pause()


def _claim(store: Store, run: str, pointers: list[AttemptPointer]) -> dict[str, Any]:
    pointers.append(claim_attempt(store, f"runs/{run}"))
    return {"number": pointers[-1].attempt}


def _moves(store: Store) -> dict[str, Any]:
    alias = find_document(store, f"models/{MODEL}/aliases/{ALIAS}.json", Alias)
    moves = alias.history if alias else ()
    for move in moves:
        read_version(store, MODEL, move.to)  # what it points at is there
    return {"value": " ".join(f"{move.from_ or 0}>{move.to}" for move in moves)}


def _draft(run: str) -> ModelDraft:
    return ModelDraft(
        name=MODEL,
        arch="squeezenet1_1",
        head=LinearHead(),
        dropout=None,
        classes=("a", "b"),
        contract=Contract(resize=36, crop=32, max_side=64),
        freeze=0,
        stages=(),
        trunk_digest="0" * 64,
        metrics={},
        weights="last",
        epoch=1,
        lineage=Lineage(
            run=run,
            dataset=MODEL,
            dataset_version="1",
            spec={},
            weights="none",
            weights_sha256=None,
            packages={},
            git_commit=None,
        ),
    )


def judge_versions(history: Iterable[Operation]) -> list[str]:
    """Return what is wrong with the versions of runs, and with an alias, a line each."""
    operations = list(history)
    return [*_one_each(operations), *_one_line(operations)]


def _one_each(operations: Sequence[Operation]) -> list[str]:
    """A run has one version, and a version one run."""
    versions, runs = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for each in operations:
        if each.kind == "register" and each.outcome == "ok" and each.value:
            versions[each.key].add(each.value)
            runs[each.value].add(each.key)
    return [
        f"{run} has {len(numbers)} versions"
        for run, numbers in versions.items()
        if len(numbers) > 1
    ] + [f"version {number} is of {len(of)} runs" for number, of in runs.items() if len(of) > 1]


def _one_line(operations: Sequence[Operation]) -> list[str]:
    """No move of the alias is lost, and each begins where the last one ended."""
    problems = []
    reads = [each for each in operations if each.kind == "alias" and each.outcome == "ok"]
    moved = [each for each in operations if each.kind == "promote" and each.outcome == "ok"]
    for read in reads:
        moves = [move.split(">") for move in (read.value or "").split()]
        places = ["0", *(to for _, to in moves)]
        if [start for start, _ in moves] != places[:-1]:
            problems.append(f"the alias's moves do not follow on each other: {read.value}")
        for other in reads:
            later = other.invoked > read.returned
            if later and not f"{other.value} ".startswith(f"{read.value} ".lstrip()):
                problems.append(f"moves of the alias are gone: {read.value}, later {other.value}")
        for each in moved:
            if each.returned < read.invoked and not each.expected and each.value not in places:
                problems.append(f"the move to {each.value} is lost")
    return problems
