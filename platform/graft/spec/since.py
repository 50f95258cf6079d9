"""Which release brought a key of a job, so that no older one is sent what it would refuse."""

from collections.abc import Iterator
from typing import Any

from packaging.version import Version
from pydantic import BaseModel, Field


def added(release: str, default: Any) -> Any:
    """Return the field of a key that `release` brings: ``tune: str = added("0.2.0", "full")``.

    The default means what older releases do, and never changes. A job with it is written without
    the key, so any release reads that job.
    """

    def is_default(value: Any) -> bool:
        return bool(value == default)

    return Field(default, exclude_if=is_default, json_schema_extra={"since": release})


def keys_unknown_to(release: str, spec: BaseModel) -> list[str]:
    """Return the keys that a job sets and an older release does not know, with their own releases.

    Raises:
        InvalidVersion: `release` is no version.
    """
    older = Version(release)
    return [
        f"{key} (of Graft {brought})"
        for key, brought in _added_keys(spec, "")
        if Version(brought) > older
    ]


def _added_keys(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each key that has been added to a section, and is not at its default, with its release.

    A section that is new as a whole, such as a kind of head, says so in its `since`.
    """
    if isinstance(node, BaseModel):
        if brought := getattr(node, "since", None):
            yield path, brought
        for name, field in type(node).model_fields.items():
            value, key = getattr(node, name), ".".join(filter(None, (path, field.alias or name)))
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "since" in extra and value != field.default:
                yield key, str(extra["since"])
            yield from _added_keys(value, key)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _added_keys(value, f"{path}.{name}")
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _added_keys(value, f"{path}.{number}")
