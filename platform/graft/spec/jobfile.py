"""Job files: from YAML 1.2 and ``--set`` overrides to a checked spec, and back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import JsonValue, ValidationError

from graft.errors import SpecError
from graft.spec.dataset_import import Import
from graft.spec.demo import Demo
from graft.spec.dotted_keys import Changes, changed
from graft.spec.evaluation import Evaluation
from graft.spec.explain import explain
from graft.spec.finetune import Finetune
from graft.spec.prediction import Prediction
from graft.spec.ranges import RANGES, Choice, IntUniform, Range, bounds
from graft.spec.sweep import ListSearch, Sweep
from graft.spec.train import UniformRates
from graft.spec.transfer import TransferReport

Job = Finetune | Sweep | TransferReport | Evaluation | Prediction | Import | Demo
Kind = TypeVar("Kind", bound=Job)
KINDS: dict[str, type[Job]] = {
    "finetune": Finetune,
    "sweep": Sweep,
    "transfer-report": TransferReport,
    "evaluation": Evaluation,
    "prediction": Prediction,
    "import": Import,
    "demo": Demo,
}
COMMANDS = {
    "finetune": "graft train",
    "sweep": "graft sweep",
    "transfer-report": "graft reports transfer",
    "evaluation": "graft submit",
    "prediction": "graft predict-batch",
    "import": "graft submit",
    "demo": "graft submit",
}
DEFAULT_KINDS = {
    "head": "linear",
    "augment": "standard",
    "train.optimizer": "sgd",
    "train.rates": "uniform",
    "train.schedule": "constant",
}
"""The `kind` of a section that names none, so that a file may set a single key of it."""
SWEEP_KINDS = {
    "base": "finetune",
    **{f"base.{key}": kind for key, kind in DEFAULT_KINDS.items()},
    "search": "random",
    "scheduler": "asha",
    "best": "as-is",
}
SECTION_KINDS = {"finetune": DEFAULT_KINDS, "sweep": SWEEP_KINDS}


@overload
def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Finetune: ...
@overload
def load_job(path: str | Path, overrides: Sequence[str], kind: type[Kind]) -> Kind: ...
@overload
def load_job(path: str | Path, overrides: Sequence[str], kind: None) -> Job: ...
def load_job(
    path: str | Path, overrides: Sequence[str] = (), kind: type[Any] | None = Finetune
) -> Any:
    """Read a job spec and apply overrides of the form ``a.b.c=value`` (value: YAML).

    `kind` is the type of spec that is expected; None accepts any.

    Raises:
        SpecError: the file cannot be read, or the spec is not valid; the message lists every
            problem with its key and, for an unknown key, the nearest one that exists.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"cannot read {path}: not text in UTF-8") from error
    document = _mapping(parse_yaml(text, str(path)), str(path))
    for override in overrides:
        _apply(document, override)
    return _parse(document, str(path), kind)


@overload
def parse_job(document: dict[str, Any], origin: str) -> Finetune: ...
@overload
def parse_job(document: dict[str, Any], origin: str, kind: type[Kind]) -> Kind: ...
@overload
def parse_job(document: dict[str, Any], origin: str, kind: None) -> Job: ...
def parse_job(document: dict[str, Any], origin: str, kind: type[Any] | None = Finetune) -> Any:
    """Check a document that YAML was parsed to, and return its spec.

    `origin` names the document in errors; `kind` is as in `load_job`.

    Raises:
        SpecError: as in `load_job`.
    """
    return _parse(_mapping(document, origin), origin, kind)


def _mapping(document: Any, origin: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise SpecError(f"{origin}: expected a mapping with a `kind`, found {_kind_of(document)}")
    return document


def with_settings(spec: Kind, settings: Sequence[str]) -> Kind:
    """Return a spec with settings of the form ``a.b.c=value`` (value: YAML) applied.

    Raises:
        SpecError: as in `load_job`.
    """
    document = spec.model_dump(mode="json", by_alias=True)
    for setting in settings:
        _apply(document, setting)
    return parse_job(document, "--set", type(spec))


def trial_spec(base: Finetune, changes: Changes, origin: str) -> Finetune:
    """Return a sweep's base with the values of dotted keys changed.

    Where the changes freeze all stages to the end, rates by stage become uniform: the base has
    them for the trials that freeze less.

    Raises:
        SpecError: the changed spec is not valid; `origin` names the trial in the message.
    """
    spec = parse_job(changed(base.model_dump(mode="json", by_alias=True), changes), origin)
    if spec.train.unfreeze or spec.backbone.freeze != "all" or "backbone.freeze" not in changes:
        return spec
    train = spec.train.model_copy(update={"rates": UniformRates()})
    return spec.model_copy(update={"train": train})


def _parse(document: dict[str, Any], origin: str, expected: type[Job] | None) -> Job:
    kind = document.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise SpecError(f"{origin}: kind is {kind!r}; expected one of: {', '.join(KINDS)}")
    if expected not in (None, model):
        raise SpecError(
            f"{origin}: kind is {kind}; expected "
            f"{next(name for name, type_ in KINDS.items() if type_ is expected)}: "
            f"`{COMMANDS[str(kind)]}` runs this one"
        )
    for key, default in SECTION_KINDS.get(str(kind), {}).items():
        document = _with_kind(document, key.split("."), default)
    if model is Sweep:
        document = _with_base_name(document)
    try:
        # Strict, so that "8" is no number; by way of JSON, so that a list is valid for a tuple.
        content = json.dumps(document, default=str)
    except (TypeError, ValueError) as error:  # a key that is a list, an alias within itself
        raise SpecError(f"{origin}: {error}") from error
    try:
        job = model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(explain(origin, model, error))) from error
    if isinstance(job, Sweep):
        _check_values(job, origin)
    return job


def dump_job(job: Job) -> str:
    """Return a spec as YAML with every default written out; `load_job` reads it back unchanged."""
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(job.model_dump(mode="json", by_alias=True), stream)
    return stream.getvalue()


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML 1.2 (``1e-3`` is a number, ``no`` a string).

    Raises:
        SpecError: `text` is not YAML; the message has `origin` and the line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise SpecError(f"{origin}:{line} not YAML: {getattr(error, 'problem', error)}") from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {override}: expected KEY=VALUE, such as train.epochs=8")
    *parents, last = key.split(".")
    node = document
    if parents and parents[0] == "space":
        parents = ["space"]
        last, value = _range_override(key.removeprefix("space."), value)
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise SpecError(f"--set {override}: '{parent}' is {_kind_of(node)}, not a section")
    node[last] = parse_yaml(value, f"--set {override}")


def _range_override(key: str, value: str) -> tuple[str, str]:
    """Return the key of a space, which has dots of its own, and the YAML of its range.

    ``a.b.choice`` and ``[1]`` give ``a.b`` and ``{choice: [1]}``.
    """
    varied, _, kind = key.rpartition(".")
    return (varied, f"{{{kind}: {value}}}") if varied and kind in RANGES else (key, value)


def _with_base_name(sweep: dict[str, Any]) -> dict[str, Any]:
    """Return a sweep's document whose base has a name, the sweep's unless it has another."""
    base = sweep.get("base")
    if isinstance(base, dict) and "name" in sweep:
        sweep = sweep | {"base": {"name": sweep["name"]} | base}
    return sweep


def _check_values(sweep: Sweep, origin: str) -> None:
    """Build a trial for every value of the space, with the other keys at their first value.

    Raises:
        SpecError: one of these trials is not a valid spec.
    """
    if isinstance(sweep.search, ListSearch):
        for number, changes in enumerate(sweep.search.trials, 1):
            trial_spec(sweep.base, changes, f"{origin}: search.trials, number {number}")
        return
    tried = {key: _examples(values) for key, values in sweep.space.items()}
    first = {key: values[0] for key, values in tried.items()}
    for key, values in tried.items():
        for value in values:
            trial = f"{origin}: space: {key} = {json.dumps(value)}"
            try:
                trial_spec(sweep.base, first | {key: value}, trial)
            except SpecError as error:
                raise SpecError(str(error).partition("\n")[0]) from error


def _examples(values: Range) -> list[JsonValue]:
    """Return all values of a choice; of numbers the bounds and, if continuous, their mean."""
    if isinstance(values, Choice):
        return list(values.choice)
    low, high = bounds(values)
    return [low, high] if isinstance(values, IntUniform) else [low, high, (low + high) / 2]


def _with_kind(document: dict[str, Any], path: Sequence[str], kind: str) -> dict[str, Any]:
    """Return `document` with a default `kind` in the section at `path`, if it has that section."""
    if not path:
        return {"kind": kind} | document
    section = document.get(path[0])
    if not isinstance(section, dict):
        return document
    return document | {path[0]: _with_kind(section, path[1:], kind)}


def _kind_of(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), f"{value!r}")
