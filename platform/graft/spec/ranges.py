"""Spec sections on the values that a sweep tries for one key."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, JsonValue, Tag, field_validator

from graft.spec.section import Section

Bounds = tuple[float, float]


def _ascending(bounds: Bounds) -> Bounds:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"{_written(bounds)}: expected the smaller bound first")
    return bounds


def _positive(bounds: Bounds) -> Bounds:
    if min(bounds) <= 0:
        raise ValueError(f"{_written(bounds)}: both bounds must be above 0")
    return bounds


def _written(bounds: Bounds) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


class Choice(Section):
    """One of the listed values."""

    choice: tuple[JsonValue, ...]
    """The values, in the order in which a grid tries them. For a section, give mappings: a mapping
    replaces a section that has a `kind`, and changes only the keys that it names in any other
    (`backbone: {choice: [{arch: resnet18}, {arch: vgg16, weights: none}]}`)."""

    @field_validator("choice")
    @classmethod
    def _distinct(cls, values: tuple[JsonValue, ...]) -> tuple[JsonValue, ...]:
        if not values:
            raise ValueError("there is nothing to choose from")
        for number, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:number]):
                raise ValueError(f"{value!r} is there twice")
        return values


class Uniform(Section):
    """A number between two bounds, all equally likely."""

    uniform: Annotated[tuple[float, float], AfterValidator(_ascending)]
    """Smallest and largest, in the key's own unit; drawn to 4 significant digits."""


class LogUniform(Section):
    """A number between two bounds whose logarithm is uniform; for learning rates and the like."""

    log_uniform: Annotated[
        tuple[float, float], AfterValidator(_positive), AfterValidator(_ascending)
    ]
    """Smallest and largest, both above 0; drawn to 4 significant digits."""


class IntUniform(Section):
    """A whole number between two bounds, all equally likely."""

    int_uniform: Annotated[tuple[int, int], AfterValidator(_ascending)]
    """Smallest and largest, both inclusive."""


RANGES: dict[str, type[Section]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_uniform": IntUniform,
}


def _class_name(value: Any) -> str | None:
    """Return the name of the class for a range, which its only key decides."""
    if isinstance(value, Section):
        return type(value).__name__
    names = [name for name in RANGES if name in value] if isinstance(value, Mapping) else []
    return RANGES[names[0]].__name__ if names else None


Range = Annotated[
    Annotated[Choice, Tag("Choice")]
    | Annotated[Uniform, Tag("Uniform")]
    | Annotated[LogUniform, Tag("LogUniform")]
    | Annotated[IntUniform, Tag("IntUniform")],
    Discriminator(
        _class_name,
        custom_error_type="range",
        custom_error_message="expected {choice: [...]}, {uniform: [low, high]}, "
        "{log_uniform: [low, high]} or {int_uniform: [low, high]}",
    ),
]


def range_size(values: Range) -> int | None:
    """Return the number of values in a range; None for a continuous one."""
    if isinstance(values, Choice):
        return len(values.choice)
    if isinstance(values, IntUniform):
        low, high = values.int_uniform
        return high - low + 1
    return None


def bounds(values: Range) -> Bounds:
    """Return the smallest and the largest number of a range.

    Raises:
        ValueError: it is a choice.
    """
    if isinstance(values, IntUniform):
        return values.int_uniform
    if isinstance(values, LogUniform):
        return values.log_uniform
    if isinstance(values, Uniform):
        return values.uniform
    raise ValueError("a choice has no bounds")
