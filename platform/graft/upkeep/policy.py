"""What `graft gc` removes: the table ``[gc]`` of ``graft.toml``, or the command's options."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, ValidationError

from graft import units
from graft.errors import InputError
from graft.spec import Section, nearest

FILE = "graft.toml"


def _duration(text: str) -> str:
    units.seconds_of(text)
    return text


def _two_days(text: str) -> str:
    if units.seconds_of(text) < 2 * 86400:
        raise ValueError(f"'{text}' is too short; use is noted once a day, so that 2d is the least")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
"""``90s``, ``10m``, ``2h`` or ``30d``."""


class Policy(Section):
    """What goes, and when."""

    grace: Duration = "24h"
    """What is younger stays, and what is marked is removed so much later at the earliest. Longer
    than any import on one machine takes, since that commits what it has written at its end."""
    activations_unused: Annotated[Duration, AfterValidator(_two_days)] = "30d"
    """Activations go that nothing has used or written for so long; they are computed again."""
    drafts_unused: Duration = "30d"
    """Imports and predictions that are not finished go, but for what they were asked, when nothing
    was written for so long."""

    @classmethod
    def of(cls, folder: Path, options: dict[str, str | None]) -> Self:
        """Return the policy of a folder's ``graft.toml``, if there is one, changed by options.

        Raises:
            InputError: the file, or an option, cannot be understood.
        """
        path = folder / FILE
        try:
            document = tomllib.loads(path.read_text()) if path.is_file() else {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{path}: expected TOML: {error}") from error
        table = document.get("gc", {})
        if not isinstance(table, dict):
            raise InputError(f"{path}: expected a table [gc], found gc = {table!r}")
        if wrong := next((key for key in table if key not in cls.model_fields), None):
            raise InputError(
                f"{path}: [gc] has no key '{wrong}'{nearest(wrong, list(cls.model_fields))}"
            )
        try:
            return cls.model_validate(table | {k: v for k, v in options.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            asked = options.get(key) is not None
            name = f"--{key.replace('_', '-')}" if asked else f"{path}: [gc] {key}"
            raise InputError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error

    @property
    def grace_s(self) -> float:
        """Seconds of `grace`."""
        return units.seconds_of(self.grace)

    @property
    def activations_s(self) -> float:
        """Seconds of `activations_unused`."""
        return units.seconds_of(self.activations_unused)

    @property
    def drafts_s(self) -> float:
        """Seconds of `drafts_unused`."""
        return units.seconds_of(self.drafts_unused)
