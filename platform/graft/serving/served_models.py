"""The models of one process, by name."""

import reprlib
from collections.abc import Iterator, Sequence

from starlette.exceptions import HTTPException

from graft.serving.alias_follower import Current
from graft.spec import nearest

SHOWN = 8
"""Most models that a refusal names."""


class Served:
    """What answers for each of the models that are served."""

    def __init__(self, currents: Sequence[Current]):
        """One for each model; one of them answers already."""
        self._currents = {current.name: current for current in currents}

    def __str__(self) -> str:
        """Name the models, or as many as one reads."""
        if len(self._currents) > SHOWN:
            return f"{len(self._currents)} models"
        return ", ".join(self._currents)

    @property
    def names(self) -> Sequence[str]:
        """The models' names, in the order in which they were given."""
        return tuple(self._currents)

    @property
    def answering(self) -> Iterator[Current]:
        """Those that can answer."""
        return (current for current in self._currents.values() if current.answers)

    @property
    def first(self) -> Current:
        """The first that can answer."""
        return next(self.answering)

    @property
    def refused(self) -> Iterator[str]:
        """What aliases point at and cannot answer, and why."""
        return (current.refused for current in self._currents.values() if current.refused)

    def find(self, name: str) -> Current:
        """Return what answers for a model.

        Raises:
            HTTPException: 404, it is not served here.
        """
        if current := self._currents.get(name):
            return current
        names = [f"'{one}'" for one in self._currents]
        if len(names) > SHOWN:
            here = f"{len(names)} models{nearest(name[:64], self._currents)}; /v1/models lists them"
        else:
            here = ", ".join(names)
        raise HTTPException(404, f"no model {reprlib.repr(name)} here; this server has {here}")
