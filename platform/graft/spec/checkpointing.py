"""Spec section on checkpoints inside an epoch."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from graft.spec.section import Section

EPOCH = "epoch"
"""What `every` is where there are no checkpoints inside an epoch."""
_INTERVAL = re.compile(r"([1-9][0-9]{0,8}) ?(s|min|h|steps?)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def _interval(value: Any) -> Any:
    """Return an interval as it is written down: `10min`, `500 steps` or `epoch`."""
    if value == EPOCH:
        return value
    match = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"'{value}' is no interval; expected a whole number and s, min, h or steps, such as "
            "10min or 500 steps, or epoch for none inside an epoch"
        )
    number, unit = match.groups()
    return f"{number} {'step' if number == '1' else 'steps'}" if unit[:2] == "st" else number + unit


class Checkpointing(Section):
    """When a checkpoint is made; the end of each epoch has one whatever this says."""

    every: Annotated[str, BeforeValidator(_interval)] = "10min"
    """Time, or number of steps, between two checkpoints inside an epoch: `90s`, `10min`, `2h` or
    `500 steps`; `epoch`: none inside an epoch. Never changes what is trained."""

    @property
    def seconds(self) -> float | None:
        """Seconds between two checkpoints; None: it is no time."""
        match = _INTERVAL.fullmatch(self.every)
        return int(match[1]) * _SECONDS[match[2]] if match and match[2] in _SECONDS else None

    @property
    def steps(self) -> int | None:
        """Steps between two checkpoints; None: it is no number of steps."""
        match = _INTERVAL.fullmatch(self.every)
        return int(match[1]) if match and match[2] not in _SECONDS else None
