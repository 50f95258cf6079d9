"""The options that several commands have.

Every command on the store takes
``store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False``.
"""

from pathlib import Path
from typing import Annotated

import typer

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
# `main` looks for the flag itself: it reports errors before, and after, a command runs, too.
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
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
