"""Keys that a release brings: older ones get jobs without them, or none."""

from typing import Any, ClassVar

import pytest
from pydantic import Field

from graft.spec import Section, dump_job, parse_yaml
from graft.spec.since import added, keys_unknown_to


class Part(Section):
    kept: int = 1
    tune: str = added("0.2.0", "full")


class NewKind(Part):
    since: ClassVar[str] = "0.3.0"


class Whole(Section):
    parts: tuple[Part, ...] = (Part(),)
    named: dict[str, Part] = Field(default={})
    rate: float | None = added("0.10.0", None)


def test_a_job_at_the_defaults_is_one_of_the_first_release() -> None:
    whole = Whole(named={"a": Part(tune="full")})
    text = dump_job(whole)  # type: ignore[arg-type]
    assert parse_yaml(text, "") == {"parts": [{"kept": 1}], "named": {"a": {"kept": 1}}}
    assert Whole.model_validate(parse_yaml(text, "")) == whole
    assert keys_unknown_to("0.1.0", whole) == []


@pytest.mark.parametrize(
    ("release", "keys"),
    [
        (
            "0.1.0",
            ["parts.1.tune (of Graft 0.2.0)", "named.a (of Graft 0.3.0)", "rate (of Graft 0.10.0)"],
        ),
        ("0.2.0", ["named.a (of Graft 0.3.0)", "rate (of Graft 0.10.0)"]),
        ("0.9.9", ["rate (of Graft 0.10.0)"]),
        ("0.10.0", []),
    ],
)
def test_what_an_older_release_does_not_know_is_named(release: str, keys: list[str]) -> None:
    whole = Whole(parts=(Part(), Part(tune="norm")), named={"a": NewKind()}, rate=0.1)
    assert keys_unknown_to(release, whole) == keys
    text = dump_job(whole)  # type: ignore[arg-type]
    read: Any = parse_yaml(text, "")
    assert read["parts"][1]["tune"] == "norm"
    assert read["rate"] == 0.1
