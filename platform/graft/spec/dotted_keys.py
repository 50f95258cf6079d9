"""Dotted keys of a fine-tuning spec: which keys exist, and how a document is changed at them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from graft.spec.explain import fields_of, nearest, sections_in
from graft.spec.finetune import Finetune
from graft.spec.section import Section

Changes = dict[str, JsonValue]
"""What a trial changes of its base spec: values by dotted key; a sweep's in the space's order."""


def all_keys() -> list[str]:
    """Return every dotted key that a fine-tuning spec can have, whatever kinds its sections are."""
    return list(dict.fromkeys(_below([Finetune], "")))


def sections_at(key: str) -> list[type[Section]]:
    """Return the section types that a dotted key can hold; none where it holds a plain value.

    Raises:
        ValueError: there is no such key; the message names the nearest ones.
    """
    sections: list[type[Section]] = [Finetune]
    parts = key.split(".")
    for number, part in enumerate(parts):
        fields = fields_of(sections)
        if part not in fields:
            raise ValueError(f"unknown key '{key}'{_near(key, '.'.join(parts[:number]), fields)}")
        annotation = fields[part]
        # Sections within a list have no dotted key: the whole list is the value.
        sections = [] if _is_list(annotation) else list(sections_in(annotation))
    return sections


def has_kind(sections: Sequence[type[Section]]) -> bool:
    """Whether the sections at a key are distinguished by a `kind`."""
    return any("kind" in section.model_fields for section in sections)


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fine-tuning document with other values at the dotted keys of `changes`.

    A section is changed before the keys within it. A mapping replaces a section that has a
    `kind`; in any other section it changes only the keys that it names.
    """
    result = dict(document)
    for key in sorted(changes, key=lambda key: key.count(".")):
        value = changes[key]
        sections = sections_at(key)
        merge = bool(sections) and isinstance(value, Mapping) and not has_kind(sections)
        result = _set(result, key.split("."), value, merge)
    return result


def _set(document: Mapping[str, Any], path: Sequence[str], value: Any, merge: bool) -> Any:
    first, *rest = path
    section = document.get(first)
    section = dict(section) if isinstance(section, Mapping) else {}
    if rest:
        value = _set(section, rest, value, merge)
    elif merge:
        value = section | dict(value)
    return {**document, first: value}


def _below(sections: Iterable[type[Section]], prefix: str) -> Iterator[str]:
    for name, annotation in fields_of(sections).items():
        yield f"{prefix}{name}"
        if not _is_list(annotation):
            yield from _below(list(sections_in(annotation)), f"{prefix}{name}.")


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is tuple


def _near(key: str, parent: str, siblings: Iterable[str]) -> str:
    """Say which key was meant: one with this ending, one spelled alike, or else list `siblings`."""
    keys = all_keys()
    ending = [name for name in keys if name.endswith(f".{key}")]
    if ending:
        return "; did you mean " + " or ".join(f"'{name}'" for name in ending[:3]) + "?"
    suggestion = nearest(key, keys)
    if suggestion.startswith("; did"):
        return suggestion
    return f"; {parent or 'a finetune spec'} has: {', '.join(siblings)}"
