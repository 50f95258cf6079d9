"""Judges attempts: numbered without a repetition, refused once they are overtaken, one result.

claim    of the next attempt: ok with its number; fail: refused, since another is at work
check    of an attempt's fence: ok: it is the current one; fail: it was overtaken
publish  checks the fence and makes the result: ok; fail: overtaken, or there is one already
failure  of a job's attempt: ok: it is recorded; fail: overtaken
result   reads it: the number of the attempt that made it; None: there is none
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from histories.checker import by_key
from histories.operations import Operation


@dataclass(frozen=True)
class Verdict:
    """What attempts came to."""

    problems: tuple[str, ...]
    late: int
    """Results of attempts that were overtaken after their fence held, and before they wrote: where
    a fence and a write are two requests, no store can prevent that. Such a result is no problem,
    as long as it is the only one."""


def judge_attempts(history: Iterable[Operation], atomic: bool = False) -> Verdict:
    """Judge the attempts at each thing in a history.

    `atomic`: a publication is one compare-and-swap, so that none may be late.
    """
    problems: list[str] = []
    late = 0
    for key, operations in by_key(history).items():
        claims = [each for each in operations if each.kind == "claim"]
        held = [each for each in claims if each.outcome == "ok"]
        found = [*_numbering(held), *_checks(operations, claims, held)]
        found += _results(operations, held)
        of_this = [each for each in _of(operations, "publish", "ok") if _overtaken(each, held)]
        late += len(of_this)
        if atomic:
            found += [f"attempt {each.number} published, and was overtaken" for each in of_this]
            found += _after_the_end(operations, held)
        problems += [f"{key}: {problem}" for problem in found]
    return Verdict(tuple(problems), late)


def _of(operations: Iterable[Operation], kind: str, outcome: str) -> list[Operation]:
    return [each for each in operations if (each.kind, each.outcome) == (kind, outcome)]


def _number(operation: Operation) -> int:
    assert operation.number is not None
    return operation.number


def _numbering(held: Sequence[Operation]) -> list[str]:
    """Numbers are each given once, and rise."""
    numbers = [_number(claim) for claim in held]
    problems = [f"attempt {n} was claimed {numbers.count(n)} times" for n in _repeated(numbers)]
    return problems + [
        f"attempt {later.number} was claimed after {earlier.number}"
        for earlier in held
        for later in held
        if earlier.returned < later.invoked and _number(later) < _number(earlier)
    ]


def _repeated(numbers: Sequence[int]) -> list[int]:
    return sorted({number for number in numbers if numbers.count(number) > 1})


def _checks(
    operations: Sequence[Operation], claims: Sequence[Operation], held: Sequence[Operation]
) -> list[str]:
    """No fence holds that began after a newer attempt was there; none fails without one."""
    problems = []
    for each in operations:
        if each.kind not in ("check", "publish", "failure"):
            continue
        newer = [claim for claim in held if _number(claim) > _number(each)]
        if each.outcome == "ok" and any(claim.returned < each.invoked for claim in newer):
            problems.append(f"the fence of attempt {each.number} held after it was overtaken")
        may_be_newer = newer + [claim for claim in claims if claim.outcome == "maybe"]
        refused = each.kind == "check" and each.outcome == "fail"
        if refused and not any(claim.invoked < each.returned for claim in may_be_newer):
            problems.append(f"the fence of attempt {each.number} failed, and none was newer")
    return problems


def _overtaken(published: Operation, held: Sequence[Operation]) -> bool:
    """Whether a newer attempt was there before a publication was."""
    return any(
        _number(claim) > _number(published) and claim.returned < published.returned
        for claim in held
    )


def _after_the_end(operations: Sequence[Operation], held: Sequence[Operation]) -> list[str]:
    """Where the result and the attempts are one object, none begins after the result."""
    made = _of(operations, "publish", "ok")
    return [
        f"attempt {claim.number} began after the end"
        for claim in held
        if any(each.returned < claim.invoked for each in made)
    ]


def _results(operations: Sequence[Operation], held: Sequence[Operation]) -> list[str]:
    """One result is made; whoever looks after that sees it, and nobody another one."""
    made = _of(operations, "publish", "ok")
    problems = [f"{len(made)} results were made"] if len(made) > 1 else []
    unsure = _of(operations, "publish", "maybe")
    possible = {each.number for each in made or unsure}
    for read in _of(operations, "result", "ok"):
        if read.number is None and any(each.returned < read.invoked for each in made):
            problems.append("a result was there, and is not")
        if read.number is not None and read.number not in possible:
            problems.append(f"the result is of attempt {read.number}, which made none")
    return problems
