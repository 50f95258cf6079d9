"""From a sweep's space to what its trials change: grids and draws; pure.

A draw is a function of (`search.seed`, the trial's number, the key) alone. So the same seed
gives the same trials on every machine, more trials keep those that fewer had, and another
key in the space changes no draw of the others.
"""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping

from pydantic import JsonValue

from graft.errors import SpecError
from graft.spec import (
    Choice,
    GridSearch,
    IntUniform,
    ListSearch,
    LogUniform,
    RandomSearch,
    Range,
    Sweep,
    Uniform,
)
from graft.spec.sweep import size

__all__ = [
    "Changes",
    "bounds",
    "count_trials",
    "describe",
    "draw",
    "grid",
    "holds",
    "known_trials",
    "label",
    "random_trials",
    "size",
    "values_of",
]

Changes = dict[str, JsonValue]
"""What a trial changes of its sweep's base: values by dotted key, in the space's order."""

DIGITS = 4
"""Significant digits of a drawn number: enough for any rate, and no machine's last bit."""
TRIES = 100_000
"""Draws for one trial, until it is one that there was not."""


def known_trials(sweep: Sweep) -> list[Changes] | None:
    """Return what every trial changes; None where the search finds out as it goes."""
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
        return math.prod(size(values) or 0 for values in sweep.space.values())
    if isinstance(sweep.search, ListSearch):
        return len(sweep.search.trials)
    return sweep.search.trials


def grid(space: Mapping[str, Range]) -> list[Changes]:
    """Return every combination, the last key varying fastest; no range is without end."""
    rows = itertools.product(*(values_of(found) for found in space.values()))
    return [dict(zip(space, row, strict=True)) for row in rows]


def random_trials(space: Mapping[str, Range], trials: int, seed: int) -> list[Changes]:
    """Return `trials` combinations at random, no two the same; the space has as many."""
    found: dict[str, Changes] = {}
    for number in range(1, trials + 1):
        for again in range(TRIES):
            changes = {
                key: draw(values, _fraction(f"{seed}/{number}/{again}/{key}"))
                for key, values in space.items()
            }
            name = json.dumps(changes, sort_keys=True)
            if name not in found:
                found[name] = changes
                break
        else:
            raise SpecError(
                f"search.trials: {TRIES:,} draws found no value that {number - 1} trials do not "
                "have already; the space's bounds are too close"
            )
    return list(found.values())


def draw(values: Range, fraction: float) -> JsonValue:
    """Return the value that lies at a fraction, from 0 to below 1, of a range."""
    if isinstance(values, Choice):
        return values.choice[int(fraction * len(values.choice))]
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return low + int(fraction * (high - low + 1))
    if isinstance(values, LogUniform):
        least, most = values.log_uniform
        number = math.exp(math.log(least) + fraction * (math.log(most) - math.log(least)))
    else:
        least, most = values.uniform
        number = least + fraction * (most - least)
    return rounded(values, number)


def rounded(values: LogUniform | Uniform, number: float) -> float:
    """Return a drawn number with as many digits as count, within its range."""
    least, most = values.log_uniform if isinstance(values, LogUniform) else values.uniform
    return min(max(float(f"{number:.{DIGITS}g}"), least), most)


def values_of(values: Range) -> list[JsonValue]:
    """Return all values of a range that has an end."""
    if isinstance(values, Choice):
        return list(values.choice)
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return list(range(low, high + 1))
    raise ValueError("a continuous range has no end of values")


def holds(values: Range, value: JsonValue) -> bool:
    """Whether a value is one of a range's."""
    if isinstance(values, Choice):
        return value in values.choice
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = bounds(values)
    return low <= value <= high


def bounds(values: Range) -> tuple[float, float]:
    """Return the bounds of a range of numbers."""
    if isinstance(values, IntUniform):
        return values.int_uniform
    if isinstance(values, LogUniform):
        return values.log_uniform
    if isinstance(values, Uniform):
        return values.uniform
    raise ValueError("a choice has no bounds")


def label(value: JsonValue) -> str:
    """Return a value as a person writes it, in few characters."""
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        rest = [f"{name}={label(found)}" for name, found in value.items() if name != "kind"]
        return " ".join([*kind, *rest])
    if isinstance(value, list):
        return "[" + ", ".join(map(label, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def describe(changes: Changes) -> str:
    """Return a trial's changes on a line."""
    return ", ".join(f"{key} {label(value)}" for key, value in changes.items())


def _fraction(name: str) -> float:
    # Of the stdlib's generator only random() is promised to stay the same across versions.
    return random.Random(hashlib.sha256(name.encode()).digest()).random()
