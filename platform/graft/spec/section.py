"""The base class of all spec sections, and the types of their simplest fields."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
"""Pattern for names of datasets, runs and models: safe within an object's key and a URL."""

Name = Annotated[str, Field(pattern=NAME)]

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
Id = Annotated[str, Field(pattern=rf"^{_ID}$")]
"""Id of a run, a sweep, a report or a job, and number of a dataset version: one part of a key."""
Ref = Annotated[str, Field(pattern=rf"^{NAME[1:-1]}@{_ID}$")]
"""NAME@VERSION of a dataset or a model."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hex."""


def _no_number(name: str) -> str:
    if name.isdigit():
        raise ValueError(f"an alias of digits alone would read as a version: {name}")
    return name


AliasName = Annotated[Name, AfterValidator(_no_number)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a spec: immutable, and unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
