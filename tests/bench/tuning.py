"""What can be set of a server, and which setting is the fastest."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Setting = Mapping[str, Any]
Axis = Sequence[Setting]
"""Settings of which one is chosen."""


def fastest(axes: Sequence[Axis], rate: Callable[[Setting], float]) -> Setting:
    """Return the fastest setting: axis after axis, each with the best of those before it.

    The axes behind it stand at their first setting meanwhile. `rate` measures a setting; each is
    measured once.
    """
    measured: dict[str, float] = {}

    def known(setting: Setting) -> float:
        key = json.dumps(setting, sort_keys=True)
        if key not in measured:
            measured[key] = rate(setting)
        return measured[key]

    best = first(axes)
    for axis in axes:
        best = max(({**best, **choice} for choice in axis), key=known)
    return best


def first(axes: Sequence[Axis]) -> Setting:
    """Return the first setting of each axis."""
    return {name: value for axis in axes for name, value in axis[0].items()}
