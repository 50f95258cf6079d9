"""What is wrong with a document, said in the user's own keys."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from graft.spec.section import Section


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or the known words where none is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"; known: {', '.join(known)}" if known else ""


def explain(where: str, model: type[Section], error: ValidationError) -> Iterable[str]:
    """Yield a line for each problem that `model` found in the document from `where`."""
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        known, shown = _walk(model, path)
        key = ".".join(shown)
        if problem["type"] == "extra_forbidden":
            yield f"{where}: unknown key '{key}'{nearest(path[-1], known)}"
        elif problem["type"] == "union_tag_invalid":
            tags = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
            tag = problem["ctx"]["tag"]
            yield f"{where}: '{key}.kind' is '{tag}'{nearest(tag, tags)}"
        elif problem["type"] == "union_tag_not_found":
            yield f"{where}: '{key}.kind' is missing"
        elif problem["type"] == "missing":
            yield f"{where}: '{key}' is missing"
        elif problem["type"] == "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{where}: {key + ': ' if key else ''}{message}"
        else:
            found = problem["input"]
            found = "a mapping" if isinstance(found, dict) else json.dumps(found, default=str)
            yield f"{where}: '{key}' is {found}; {_lower(problem['msg'])}"


def fields_of(sections: Iterable[type[Section]]) -> dict[str, Any]:
    """Return the annotations of the fields of sections, by the name that a file has for them."""
    return {
        field.alias or name: field.annotation
        for section in sections
        for name, field in section.model_fields.items()
    }


def sections_in(annotation: Any) -> Iterable[type[Section]]:
    """Yield the sections that a field's annotation speaks of."""
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from sections_in(argument)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


def _walk(model: type[Section], path: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the fields of the section that holds `path`'s last part, and the path as written.

    Pydantic puts a union's tag, or its member's name, into the path; the user's file does not.
    """
    sections: list[type[Section]] = [model]
    known: list[str] = []
    shown: list[str] = []
    in_mapping = False
    for part in path:
        if part.isdigit() or in_mapping:
            shown.append(part)
            in_mapping = False
            continue
        tagged = [s for s in sections if part in (*get_args(_kind(s)), s.__name__)]
        if tagged and len(sections) > 1:
            sections = tagged
            continue
        if not sections:
            continue
        fields = fields_of(sections)
        known = list(fields)
        shown.append(part)
        sections = list(sections_in(fields.get(part)))
        in_mapping = bool(sections) and get_origin(fields.get(part)) is dict
    return known, shown


def _kind(section: type[Section]) -> Any:
    return section.model_fields["kind"].annotation if "kind" in section.model_fields else None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
