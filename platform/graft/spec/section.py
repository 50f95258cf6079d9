"""What every part of a spec is made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
"""What datasets, runs and models may be called: a safe part of an object's key and of a URL."""

Name = Annotated[str, Field(pattern=NAME)]


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
    """A part of a spec: immutable, and no key in it is unknown."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
