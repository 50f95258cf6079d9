"""Job files: YAML 1.2 and ``--set`` overrides to a checked spec, and back."""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from graft.errors import SpecError
from graft.spec.finetune import Finetune
from graft.spec.section import Section

Job = Finetune
KINDS: dict[str, type[Job]] = {"finetune": Finetune}
DEFAULT_KINDS = {
    "head": "linear",
    "augment": "standard",
    "train.optimizer": "sgd",
    "train.rates": "uniform",
    "train.schedule": "constant",
}
"""What a section is where it says no `kind`, so that one key of it can be set alone."""


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job spec and apply overrides of the form ``a.b.c=value`` (value: YAML).

    Raises:
        SpecError: the file cannot be read, or the spec is not valid; every problem is
            listed with its key and, for an unknown key, the nearest known one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"cannot read {path}: not text in UTF-8") from error
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected a mapping with a `kind`, found {_kind_of(document)}")
    for override in overrides:
        _apply(document, override)
    return parse_job(document, str(path))


def parse_job(document: dict[str, Any], where: str) -> Job:
    """Check a parsed document; `where` names its origin in errors."""
    kind = document.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise SpecError(f"{where}: kind is {kind!r}; expected one of: {', '.join(KINDS)}")
    for key, default in DEFAULT_KINDS.items():
        document = _with_kind(document, key.split("."), default)
    try:
        # Strict, by way of JSON: "8" is no number, and a list is what JSON has for a tuple.
        content = json.dumps(document, default=str)
    except (TypeError, ValueError) as error:  # a key that is a list, an alias within itself
        raise SpecError(f"{where}: {error}") from error
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(where, model, error))) from error


def dump_job(job: Job) -> str:
    """Write a spec as YAML, every default spelled out; `load_job` reads it back unchanged."""
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(job.model_dump(mode="json", by_alias=True), stream)
    return stream.getvalue()


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 (``1e-3`` is a number, ``no`` a string)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise SpecError(f"{where}:{line} not YAML: {getattr(error, 'problem', error)}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or the known words where none is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"; known: {', '.join(known)}" if known else ""


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {override}: expected KEY=VALUE, such as train.epochs=8")
    *parents, last = key.split(".")
    node = document
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise SpecError(f"--set {override}: '{parent}' is {_kind_of(node)}, not a section")
    node[last] = parse_yaml(value, f"--set {override}")


def _with_kind(document: dict[str, Any], path: Sequence[str], kind: str) -> dict[str, Any]:
    """Return `document` with a `kind` in the section at `path`, where it has that section."""
    if not path:
        return {"kind": kind} | document
    section = document.get(path[0])
    if not isinstance(section, dict):
        return document
    return document | {path[0]: _with_kind(section, path[1:], kind)}


def _explain(where: str, model: type[Section], error: ValidationError) -> Iterable[str]:
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


def _walk(model: type[Section], path: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the fields of the section that holds `path`'s last part, and the path as written.

    Pydantic puts a union's tag, or its member's name, into the path; the user's file does not.
    """
    sections: list[type[Section]] = [model]
    known: list[str] = []
    shown: list[str] = []
    for part in path:
        if part.isdigit():
            shown.append(part)
            continue
        fields = {
            field.alias or name: field.annotation
            for section in sections
            for name, field in section.model_fields.items()
        }
        tagged = [s for s in sections if part in get_args(_kind(s))]
        if tagged and len(sections) > 1:
            sections = tagged
            continue
        if not sections:
            continue
        known = list(fields)
        shown.append(part)
        sections = list(_sections(fields.get(part)))
    return known, shown


def _kind(section: type[Section]) -> Any:
    return section.model_fields["kind"].annotation if "kind" in section.model_fields else None


def _sections(annotation: Any) -> Iterable[type[Section]]:
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _sections(argument)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


def _kind_of(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), f"{value!r}")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
