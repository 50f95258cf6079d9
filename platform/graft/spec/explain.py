"""Validation errors of a document, explained with the keys that the user wrote."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from graft.spec.section import Section


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or a list of all `words` where none is spelled alike."""
    words = list(words)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"; known: {', '.join(words)}" if words else ""


def explain(origin: str, model: type[Section], error: ValidationError) -> Iterable[str]:
    """Yield one line for each problem in a document that `model` refused; `origin` names it."""
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        siblings, written = _locate(model, path)
        key = ".".join(written)
        if problem["type"] == "extra_forbidden":
            yield f"{origin}: unknown key '{key}'{nearest(path[-1], siblings)}"
        elif problem["type"] == "union_tag_invalid":
            tags = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
            tag = problem["ctx"]["tag"]
            yield f"{origin}: '{key}.kind' is '{tag}'{nearest(tag, tags)}"
        elif problem["type"] == "union_tag_not_found":
            yield f"{origin}: '{key}.kind' is missing"
        elif problem["type"] == "missing":
            yield f"{origin}: '{key}' is missing"
        elif problem["type"] == "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{origin}: {key + ': ' if key else ''}{message}"
        else:
            value = problem["input"]
            value = "a mapping" if isinstance(value, dict) else json.dumps(value, default=str)
            reason = problem["msg"]
            yield f"{origin}: '{key}' is {value}; {reason[:1].lower()}{reason[1:]}"


def fields_of(sections: Iterable[type[Section]]) -> dict[str, Any]:
    """Return the annotation of each field of the sections, by its name in a file."""
    return {
        field.alias or name: field.annotation
        for section in sections
        for name, field in section.model_fields.items()
    }


def sections_in(annotation: Any) -> Iterable[type[Section]]:
    """Yield the section types within a field's annotation."""
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from sections_in(argument)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


def _locate(model: type[Section], path: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keys of the section that holds `path`'s last part, and the path as written.

    Pydantic puts a union's tag, or its member's class name, into the path; a file has neither.
    """
    sections: list[type[Section]] = [model]
    siblings: list[str] = []
    written: list[str] = []
    in_mapping = False
    for part in path:
        if part.isdigit() or in_mapping:
            written.append(part)
            in_mapping = False
            continue
        tagged = [s for s in sections if part in (*get_args(_kind(s)), s.__name__)]
        if tagged and len(sections) > 1:
            sections = tagged
            continue
        if not sections:
            continue
        fields = fields_of(sections)
        siblings = list(fields)
        written.append(part)
        sections = list(sections_in(fields.get(part)))
        in_mapping = bool(sections) and get_origin(fields.get(part)) is dict
    return siblings, written


def _kind(section: type[Section]) -> Any:
    return section.model_fields["kind"].annotation if "kind" in section.model_fields else None
