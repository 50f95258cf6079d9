"""`graft keys new|ls|revoke`: the API keys of a server, in a file of their hashes."""

from pathlib import Path
from typing import Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import Json
from graft.cli.show.output import emit, note

app = noun("Make, list and revoke API keys of served models.")

KeysFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file of keys; it has their hashes alone.")
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, as logs say it.")]


@app.command()
def new(
    file: KeysFile,
    name: KeyName,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="predict, which is the default, or admin; several times."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a key, and print it this one time.

    The file is made if there is none. predict is for asking models, admin for how they are used.
    Servers take the key within 10 seconds.

    Example: graft keys new keys.json web-shop
    """
    from typing import get_args

    from graft.errors import InputError
    from graft.serving.keys import Scope, new_key

    known: dict[str, Scope] = {one: one for one in get_args(Scope)}
    scopes = list(dict.fromkeys(scope or ["predict"]))
    for one in scopes:
        if one not in known:
            raise InputError(f"--scope {one}: expected {' or '.join(known)}")
    key = new_key(file, name, tuple(known[one] for one in scopes))
    emit({"name": name, "scopes": scopes, "key": key}, json, lambda: key)
    note(f"{file} has its hash; this is the only time that the key is shown.")


@app.command()
def ls(file: KeysFile, json: Json = False) -> None:
    """List the keys of a file.

    Example: graft keys ls keys.json
    """
    from graft.cli.show.tables import text_table
    from graft.serving.keys import read_keys

    keys = [key.model_dump(mode="json", exclude={"sha256"}) for key in read_keys(file)]
    rows = [(key["name"], ", ".join(key["scopes"]), key["created"][:10]) for key in keys]
    emit({"keys": keys}, json, lambda: text_table(("name", "scopes", "created"), rows))


@app.command()
def revoke(file: KeysFile, name: KeyName, json: Json = False) -> None:
    """Remove a key: servers that read this file refuse it within 10 seconds.

    Example: graft keys revoke keys.json web-shop
    """
    from graft.serving.keys import revoke_key

    revoke_key(file, name)
    emit({"revoked": name}, json, lambda: f"{name} is revoked")
