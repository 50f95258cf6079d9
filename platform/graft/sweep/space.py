"""From a sweep's space to the changes of its trials: grids and draws; pure.

A draw is a function of nothing but `search.seed`, the trial's number and the key. So the same
seed gives the same trials on every machine, a sweep with more trials begins with those of one
with fewer, and a new key in the space does not change what is drawn for the others.
"""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from graft.errors import SpecError
from graft.spec import (
    Changes,
    Choice,
    GridSearch,
    IntUniform,
    ListSearch,
    LogUniform,
    RandomSearch,
    Range,
    Sweep,
)
from graft.spec.ranges import bounds, range_size

DIGITS = 4
"""Significant digits of a drawn number: enough for any rate, and few enough that rounding errors,
which differ by machine, never show."""
TRIES = 100_000
"""Most draws for one trial; a draw that repeats an earlier trial is discarded."""


def listed_trials(sweep: Sweep) -> list[Changes] | None:
    """Return the changes of every trial; None where the search finds trials as it goes."""
    if isinstance(sweep.search, GridSearch):
        return grid(sweep.space)
    if isinstance(sweep.search, ListSearch):
        return [dict(changes) for changes in sweep.search.trials]
    if isinstance(sweep.search, RandomSearch):
        return random_trials(sweep.space, sweep.search.trials, sweep.search.seed)
    return None


def count_trials(sweep: Sweep) -> int:
    """Return how many trials a sweep has."""
    if isinstance(sweep.search, GridSearch):
        return math.prod(range_size(values) or 0 for values in sweep.space.values())
    if isinstance(sweep.search, ListSearch):
        return len(sweep.search.trials)
    return sweep.search.trials


def grid(space: Mapping[str, Range]) -> list[Changes]:
    """Return every combination of values, the last key varying fastest.

    Raises:
        ValueError: a range is continuous.
    """
    rows = itertools.product(*(values_of(values) for values in space.values()))
    return [dict(zip(space, row, strict=True)) for row in rows]


def random_trials(space: Mapping[str, Range], trials: int, seed: int) -> list[Changes]:
    """Return `trials` random combinations, no two the same; the space has at least as many.

    Raises:
        SpecError: the bounds are so close that draws, which are rounded, only repeat.
    """
    by_name: dict[str, Changes] = {}
    for number in range(1, trials + 1):
        for attempt in range(TRIES):
            changes = {
                key: draw(values, _fraction(f"{seed}/{number}/{attempt}/{key}"))
                for key, values in space.items()
            }
            name = json.dumps(changes, sort_keys=True)
            if name not in by_name:
                by_name[name] = changes
                break
        else:
            raise SpecError(
                f"search.trials: {TRIES:,} draws found no value that {number - 1} trials do not "
                "have already; the space's bounds are too close"
            )
    return list(by_name.values())


def draw(values: Range, fraction: float) -> JsonValue:
    """Return the value at a fraction of a range; `fraction`: from 0 to below 1."""
    if isinstance(values, Choice):
        return values.choice[int(fraction * len(values.choice))]
    low, high = bounds(values)
    if isinstance(values, IntUniform):
        return low + int(fraction * (high - low + 1))
    if isinstance(values, LogUniform):
        number = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    else:
        number = low + fraction * (high - low)
    return into_range(values, number)


def into_range(values: Range, value: Any) -> JsonValue:
    """Return a value of a choice as it is, and a number rounded and limited to its range."""
    if isinstance(values, Choice):
        chosen: JsonValue = value
        return chosen
    low, high = bounds(values)
    rounded = int(value) if isinstance(values, IntUniform) else float(f"{value:.{DIGITS}g}")
    return min(max(rounded, low), high)


def values_of(values: Range) -> list[JsonValue]:
    """Return all values of a choice or of whole numbers.

    Raises:
        ValueError: the range is continuous.
    """
    if isinstance(values, Choice):
        return list(values.choice)
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return list(range(low, high + 1))
    raise ValueError("a continuous range cannot be listed")


def holds(values: Range, value: JsonValue) -> bool:
    """Whether a range contains a value."""
    if isinstance(values, Choice):
        return value in values.choice
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = bounds(values)
    return low <= value <= high


def value_text(value: JsonValue) -> str:
    """Return a value as a person would write it, in few characters."""
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        rest = [f"{name}={value_text(item)}" for name, item in value.items() if name != "kind"]
        return " ".join([*kind, *rest])
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def changes_text(changes: Changes) -> str:
    """Return a trial's changes on one line."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in changes.items())


def _fraction(name: str) -> float:
    # random() is the only draw of the standard library that stays the same across versions.
    return random.Random(hashlib.sha256(name.encode()).digest()).random()
