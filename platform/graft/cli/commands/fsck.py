"""`graft fsck`: whether everything in the store is what its markers say."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store


def fsck(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes only; no file is read.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make again what can be: indexes of lists, and pointers to the latest version; "
            "remove damaged activations and graphs, which are then computed again.",
        ),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Check every committed thing against its size and SHA-256, and every reference.

    Also lists against their markers, and the store's clock against this machine's. Of each damage
    it says what was found and expected, what is lost with it, and what to do. The exit code is 0
    where the store is whole, or was mended, and 1 where something is damaged.

    Example: graft fsck --quick
    """
    from dataclasses import asdict

    from graft.cli.show.output import counting, emit
    from graft.cli.show.upkeep import checked_page
    from graft.upkeep.checking import check
    from graft.upkeep.mending import mend

    opened = open_store(store)
    with counting("checking", "files") as progress:
        checked = check(opened, quick, progress)
    mended = mend(opened, checked.damages) if repair else []
    left = [damage for damage in checked.damages if damage.key not in mended]
    document = {
        "store": opened.uri,
        "whole": not left,
        "documents": checked.documents,
        "payloads": checked.payloads,
        "bytes": checked.bytes,
        "clock_skew_s": checked.skew_s,
        "damages": [
            asdict(damage) | {"mended": damage.key in mended} for damage in checked.damages
        ],
    }
    emit(document, json, lambda: checked_page(checked, mended, quick))
    if left:
        raise typer.Exit(1)
