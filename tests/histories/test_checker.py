"""The judges of histories, by histories that are known to be right, and known to be broken."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories.checker import UndecidedError, judge_markers, judge_registers, linearization
from histories.fences import judge_attempts
from histories.operations import Log, Operation, Outcome, read_logs
from histories.versions import judge_versions


def op(
    kind: str,
    invoked: float,
    returned: float,
    value: str | None = None,
    expected: str | None = None,
    outcome: Outcome = "ok",
    number: int | None = None,
    process: str = "p",
) -> Operation:
    if outcome == "maybe":
        returned = returned or math.inf
    return Operation(process, kind, "k", invoked, returned, outcome, value, expected, number)


RIGHT = {
    "nothing": [],
    "one after the other": [op("write", 0, 1, "a"), op("read", 2, 3, "a")],
    "absent before the first write": [op("read", 0, 1), op("create", 2, 3, "a")],
    "read while it is written, before": [op("write", 0, 9, "a"), op("read", 1, 2)],
    "read while it is written, after": [op("write", 0, 9, "a"), op("read", 1, 2, "a")],
    "of two writes at once either is last": [
        op("write", 0, 9, "a"),
        op("write", 0, 9, "b"),
        op("read", 10, 11, "a"),
    ],
    "a swap that held": [op("write", 0, 1, "a"), op("swap", 2, 3, "b", "a"), op("read", 4, 5, "b")],
    "a swap that failed": [
        op("write", 0, 1, "a"),
        op("write", 2, 3, "b"),
        op("swap", 4, 5, "c", "a", "fail"),
        op("read", 6, 7, "b"),
    ],
    "one of two creators": [
        op("create", 0, 9, "a"),
        op("create", 0, 9, "b", outcome="fail"),
        op("read", 10, 11, "a"),
    ],
    "a killed write had its effect": [
        op("write", 0, 0, "a", outcome="maybe"),
        op("read", 5, 6, "a"),
    ],
    "a killed write had none": [op("write", 0, 0, "a", outcome="maybe"), op("read", 5, 6)],
    "a killed write has it late": [
        op("write", 0, 0, "a", outcome="maybe"),
        op("write", 1, 2, "b"),
        op("read", 3, 4, "b"),
        op("read", 5, 6, "a"),
    ],
    "a killed creator won": [
        op("create", 0, 0, "a", outcome="maybe"),
        op("create", 1, 2, "b", outcome="fail"),
    ],
    "a killed read says nothing": [op("read", 0, 0, "zzz", outcome="maybe")],
}

BROKEN = {
    "a stale read": [op("write", 0, 1, "a"), op("write", 2, 3, "b"), op("read", 4, 5, "a")],
    "a write that is lost": [op("write", 0, 1, "a"), op("read", 2, 3)],
    "a lost update": [
        op("write", 0, 1, "a"),
        op("swap", 2, 5, "b", "a"),
        op("swap", 2, 5, "c", "a"),
    ],
    "two winners": [op("create", 0, 9, "a"), op("create", 0, 9, "b")],
    "a value from nowhere": [op("write", 0, 1, "a"), op("read", 2, 3, "b")],
    "a read from the future": [op("read", 0, 1, "a"), op("write", 2, 3, "a")],
    "a write from the past": [
        op("write", 0, 1, "a"),
        op("write", 2, 3, "b"),
        op("read", 4, 5, "b"),
        op("read", 6, 7, "a"),
    ],
    "two reads that go back": [
        op("write", 0, 1, "a"),
        op("write", 2, 20, "b"),
        op("read", 3, 4, "b"),
        op("read", 5, 6, "a"),
    ],
    "a swap that failed for no reason": [
        op("write", 0, 1, "a"),
        op("swap", 2, 3, "b", "a", "fail"),
    ],
    "a create that failed for no reason": [op("create", 0, 1, "a", outcome="fail")],
    "a failed swap that is read": [
        op("write", 0, 1, "a"),
        op("write", 2, 3, "b"),
        op("swap", 4, 5, "c", "a", "fail"),
        op("read", 6, 7, "c"),
    ],
    "a killed write, read and gone": [
        op("write", 0, 1, "b"),
        op("write", 2, 0, "a", outcome="maybe"),
        op("read", 3, 4, "a"),
        op("read", 5, 6, "b"),
    ],
    "read before the killed write began": [
        op("read", 0, 1, "a"),
        op("write", 2, 0, "a", outcome="maybe"),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_history_that_one_register_gives_is_right(name: str) -> None:
    assert judge_registers(RIGHT[name]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_history_that_no_register_gives_is_found(name: str) -> None:
    assert judge_registers(BROKEN[name]) == ["k: no order explains what was read and written"]


def test_a_write_that_took_effect_twice_is_right_where_that_may_be() -> None:
    twice = [
        op("write", 0, 9, "a"),
        op("read", 1, 2, "a"),
        op("write", 3, 4, "b"),
        op("read", 5, 6, "a"),
    ]
    assert judge_registers(twice) != []
    assert judge_registers(twice, repeated=True) == []
    late = [*twice, op("write", 20, 21, "b"), op("read", 22, 23, "a")]
    assert judge_registers(late, repeated=True) != []


def test_the_order_that_is_returned_explains_the_history() -> None:
    for history in RIGHT.values():
        order = linearization(history)
        assert order is not None
        assert explains(order)
        for earlier, later in itertools.combinations(order, 2):
            assert later.returned >= earlier.invoked


def explains(order: Sequence[Operation]) -> bool:
    """Whether one register gives these answers, asked in this order."""
    state = None
    for each in order:
        if each.kind == "read":
            right = state == each.value
        elif each.kind == "write":
            right, state = True, each.value
        else:
            holds = state == each.expected
            right = holds == (each.outcome != "fail")
            state = each.value if holds and right else state
        if not right:
            return False
    return True


def by_brute_force(history: Sequence[Operation]) -> bool:
    """Try every order of every choice of what the unsure operations did."""
    sure = [each for each in history if each.outcome != "maybe"]
    unsure = [each for each in history if each.outcome == "maybe" and each.kind != "read"]
    for count in range(len(unsure) + 1):
        for chosen in itertools.combinations(unsure, count):
            for order in itertools.permutations([*sure, *chosen]):
                follows = all(b.returned >= a.invoked for a, b in itertools.combinations(order, 2))
                if follows and explains(order):
                    return True
    return False


VALUES = st.sampled_from(["a", "b", None])


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to six operations, whose ends are never the beginnings of others."""
    count = draw(st.integers(1, 6))
    times = draw(st.permutations(range(2 * count)))
    history = []
    for place in range(count):
        invoked, returned = sorted(times[2 * place : 2 * place + 2])
        kind = draw(st.sampled_from(["read", "write", "swap", "create"]))
        outcomes = ["ok", "maybe"] + ["fail"] * (kind in ("swap", "create"))
        value = draw(VALUES) if kind == "read" else draw(st.sampled_from(["a", "b", "c"]))
        expected = draw(VALUES) if kind == "swap" else None
        outcome = draw(st.sampled_from(outcomes))
        if outcome == "maybe" and draw(st.booleans()):
            returned = 0  # nobody knows when
        history.append(op(kind, invoked, returned, value, expected, outcome))
    return history


@given(histories())
@settings(max_examples=500, deadline=None, derandomize=True)
@pytest.mark.slow
def test_the_search_agrees_with_trying_everything(history: list[Operation]) -> None:
    order = linearization(history)
    assert (order is not None) == by_brute_force(history)
    assert order is None or explains(order)


def test_a_search_that_takes_too_long_is_undecided() -> None:
    unsure = [op("write", place, 0, f"{place}", outcome="maybe") for place in range(20)]
    with pytest.raises(UndecidedError, match="100 configurations"):
        linearization([*unsure, op("read", 50, 51, "nowhere")], limit=100)


def test_long_histories_are_judged() -> None:
    writes = [op("write", 2 * n, 2 * n + 3, f"{n}") for n in range(2000)]
    reads = [op("read", 2 * n + 3, 2 * n + 4, f"{n}") for n in range(0, 2000, 7)]
    assert judge_registers([*writes, *reads]) == []
    reads[-1] = replace(reads[-1], value="3")
    assert judge_registers([*writes, *reads]) != []


def test_what_is_wrong_with_a_marker_is_said() -> None:
    assert judge_markers(RIGHT["one of two creators"]) == []
    assert judge_markers(RIGHT["a killed creator won"]) == []
    assert judge_markers(BROKEN["two winners"]) == ["k: 2 creators won"]
    half = [op("create", 0, 1, "a"), op("read", 2, 3, "half")]
    assert judge_markers(half) == ["k: half was read, and did not win"]
    changed = [op("create", 0, 0, v, outcome="maybe") for v in "ab"]
    changed += [op("read", 3, 4, "a"), op("read", 5, 6, "b")]
    assert judge_markers(changed) == ["k: readers saw 2 of them"]


def at(kind: str, invoked: float, returned: float, number: int | None, outcome: Outcome = "ok"):
    return op(kind, invoked, returned, outcome=outcome, number=number)


TWO = [at("claim", 0, 1, 1), at("claim", 4, 5, 2)]


def test_attempts_that_are_as_they_should_be() -> None:
    for history in (
        [*TWO, at("check", 2, 3, 1), at("check", 6, 7, 1, "fail"), at("check", 6, 7, 2)],
        [*TWO, at("check", 2, 6, 1)],  # it may have looked before
        [at("claim", 0, 1, 1), at("claim", 2, 0, None, "maybe"), at("check", 3, 4, 1, "fail")],
        [*TWO, at("publish", 6, 7, 2), at("publish", 6, 7, 1, "fail"), at("result", 8, 9, 2)],
        [*TWO, at("publish", 6, 0, 2, "maybe"), at("result", 8, 9, 2)],
        [at("claim", 0, 1, 1), at("result", 2, 3, None), at("publish", 2, 5, 1)],
    ):
        verdict = judge_attempts(history)
        assert (verdict.problems, verdict.late) == ((), 0)


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([at("claim", 0, 1, 1), at("claim", 2, 3, 1)], "attempt 1 was claimed 2 times"),
        ([at("claim", 0, 1, 2), at("claim", 2, 3, 1)], "attempt 1 was claimed after 2"),
        ([*TWO, at("check", 6, 7, 1)], "the fence of attempt 1 held after it was overtaken"),
        ([*TWO, at("publish", 6, 7, 1)], "the fence of attempt 1 held after it was overtaken"),
        ([*TWO, at("check", 2, 3, 1, "fail")], "the fence of attempt 1 failed, and none was newer"),
        (
            [*TWO, at("publish", 2, 3, 1), at("publish", 6, 7, 2)],
            "2 results were made",
        ),
        (
            [*TWO, at("publish", 6, 7, 2), at("result", 8, 9, 1)],
            "the result is of attempt 1, which made none",
        ),
        (
            [*TWO, at("publish", 6, 7, 2), at("result", 8, 9, None)],
            "a result was there, and is not",
        ),
    ],
)
def test_what_is_wrong_with_attempts_is_said(history: list[Operation], problem: str) -> None:
    assert f"k: {problem}" in judge_attempts(history).problems


def test_a_result_that_came_late_is_counted_or_wrong() -> None:
    history = [*TWO, at("publish", 2, 7, 1)]
    assert judge_attempts(history).late == 1
    assert judge_attempts(history).problems == ()
    problems = judge_attempts(history, atomic=True).problems
    assert problems == ("k: attempt 1 published, and was overtaken",)
    begun = [at("claim", 0, 1, 1), at("publish", 2, 3, 1), at("claim", 4, 5, 2)]
    assert judge_attempts(begun).problems == ()
    assert judge_attempts(begun, atomic=True).problems == ("k: attempt 2 began after the end",)


def move(value: str, invoked: float, returned: float, stays: str = "") -> Operation:
    return op("promote", invoked, returned, value, stays)


@pytest.mark.parametrize(
    ("history", "problems"),
    [
        ([op("register", 0, 1, "1"), op("register", 2, 3, "1")], []),
        ([op("register", 0, 1, "1"), op("register", 2, 3, "2")], ["k has 2 versions"]),
        (
            [op("register", 0, 1, "1"), replace(op("register", 2, 3, "1"), key="l")],
            ["version 1 is of 2 runs"],
        ),
        ([op("alias", 0, 1, ""), move("1", 2, 3), op("alias", 4, 5, "0>1")], []),
        ([move("1", 0, 1, "it stays"), op("alias", 4, 5, "0>2")], []),
        ([move("1", 0, 1), op("alias", 4, 5, "0>2 2>3")], ["the move to 1 is lost"]),
        (
            [op("alias", 0, 1, "0>1 1>2"), op("alias", 4, 5, "0>1 1>3")],
            ["moves of the alias are gone: 0>1 1>2, later 0>1 1>3"],
        ),
        (
            [op("alias", 0, 1, "0>1 2>3")],
            ["the alias's moves do not follow on each other: 0>1 2>3"],
        ),
    ],
)
def test_what_is_wrong_with_versions_is_said(history: list[Operation], problems: list[str]) -> None:
    assert judge_versions(history) == problems


def test_a_log_says_what_had_begun_and_how_it_ended(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", "p1")
    first = log.invoke("swap", "k", value="b", expected="a")
    log.end(first, "fail")
    second = log.invoke("read", "k")
    log.end(second, "ok", value="a")
    log.invoke("write", "k", value="c")
    swap, read, write = read_logs([tmp_path / "log"])
    assert (swap.outcome, swap.expected, swap.invoked < swap.returned) == ("fail", "a", True)
    assert (read.outcome, read.value) == ("ok", "a")
    assert (write.outcome, write.value, write.returned) == ("maybe", "c", math.inf)
