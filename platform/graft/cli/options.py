"""The options that several commands have, and how a command takes several as one value.

Every command on the store takes ``store: StoreUri = DEFAULT_STORE, json: Json = False``; the group
of a command (`help.Group`) adds ``--debug``.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from graft.store import Store

DEFAULT_STORE = "./graft-store"

StoreUri = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="GRAFT_STORE",
        metavar="URI",
        help="The store of all data: s3://bucket/prefix or a local directory.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec; several times."),
]
Model = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Which model.")]
DatasetRef = Annotated[
    str | None,
    typer.Option(
        "--dataset", metavar="NAME[@VERSION]", help="Default: what the model was trained on."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="SPLIT", help="test, val or train; default: test, else val."),
]
Gpus = Annotated[
    int, typer.Option("--gpus", min=0, max=1, help="GPUs to compute on; 0: on the CPUs.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Where the page, pictures and JSON are written."),
]


def open_store(uri: str) -> "Store":
    """Return the store of `--store`; what stores need is imported when a command opens one."""
    from graft.store import Store

    return Store.open(uri)


def changes_of(settings: list[str]) -> dict[str, str]:
    """Return the values of ``KEY=VALUE`` by key.

    Raises:
        InputError: one of them is not written so.
    """
    from graft.errors import InputError

    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting}: expected KEY=VALUE, such as train.epochs=12")
        changes[key] = value
    return changes


def grouped_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of its parameters' dataclasses as options, where these stand."""
    signature = inspect.signature(command)
    groups = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }
    fields = {name: inspect.signature(group).parameters for name, group in groups.items()}

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in fields[name]})
        command(**values)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += fields[name].values() if name in groups else [parameter]
    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    # What typer makes options of.
    with_options.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return with_options
