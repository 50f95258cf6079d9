"""Dotted keys of a fine-tuning spec: which there are, and how a document is changed at one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from graft.spec.explain import fields_of, nearest, sections_in
from graft.spec.finetune import Finetune
from graft.spec.section import Section


def all_keys() -> list[str]:
    """Return every dotted key of a fine-tuning spec, of all kinds of its sections."""
    return list(dict.fromkeys(_below([Finetune], "")))


def sections_at(key: str) -> list[type[Section]]:
    """Return the sections that a dotted key names; none where it names a value.

    Raises:
        ValueError: there is no such key; the nearest are named.
    """
    sections: list[type[Section]] = [Finetune]
    parts = key.split(".")
    for number, part in enumerate(parts):
        fields = fields_of(sections)
        if part not in fields:
            raise ValueError(f"unknown key '{key}'{_near(key, '.'.join(parts[:number]), fields)}")
        annotation = fields[part]
        # What is within a list has no dotted key: the list is the value.
        sections = [] if _is_list(annotation) else list(sections_in(annotation))
    return sections


def has_kind(sections: Sequence[type[Section]]) -> bool:
    """Whether the sections at a key are told apart by their `kind`."""
    return any("kind" in section.model_fields for section in sections)


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fine-tuning document with the values of dotted keys changed.

    Sections before their own keys. A mapping for a section with a `kind` takes its place;
    one for another section changes the keys that it names.
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
    within = document.get(first)
    within = dict(within) if isinstance(within, Mapping) else {}
    if rest:
        value = _set(within, rest, value, merge)
    elif merge:
        value = within | dict(value)
    return {**document, first: value}


def _below(sections: Iterable[type[Section]], prefix: str) -> Iterator[str]:
    for name, annotation in fields_of(sections).items():
        yield f"{prefix}{name}"
        if not _is_list(annotation):
            yield from _below(list(sections_in(annotation)), f"{prefix}{name}.")


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is tuple


def _near(key: str, parent: str, siblings: Iterable[str]) -> str:
    """Say which key was meant: one that ends so, one that is near, or what there is."""
    known = all_keys()
    ending = [name for name in known if name.endswith(f".{key}")]
    if ending:
        return "; did you mean " + " or ".join(f"'{name}'" for name in ending[:3]) + "?"
    near = nearest(key, known)
    if near.startswith("; did"):
        return near
    return f"; {parent or 'a finetune spec'} has: {', '.join(siblings)}"
