"""`graft gc`: what nothing in the store needs, and its removal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

if TYPE_CHECKING:
    from graft.store import Store


def gc(
    *,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete",
            help="Remove what an earlier pass marked a grace period ago, and mark what nothing "
            "needs now. Without it, nothing is changed.",
        ),
    ] = False,
    grace: Annotated[
        str | None,
        typer.Option(
            show_default="24h",
            metavar="TIME",
            help="What is younger stays; between a mark and the removal is as much again.",
        ),
    ] = None,
    activations_unused: Annotated[
        str | None,
        typer.Option(
            show_default="30d",
            metavar="TIME",
            help="Activations go that nothing has used for so long.",
        ),
    ] = None,
    drafts_unused: Annotated[
        str | None,
        typer.Option(
            show_default="30d",
            metavar="TIME",
            help="Imports and predictions go that are not finished, and were not worked on for so "
            "long.",
        ),
    ] = None,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            help="Nothing else uses the store; needed where the storage's conditional writes are "
            "not exclusive.",
        ),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show, and with --delete remove, what nothing in the store needs.

    Leftovers of writers that were killed; checkpoints of finished runs but for the latest and the
    best; tails of trials that did not win; unused activations; stages, weights and graphs that no
    version or job names; what `rm` has left. It may run while anything else does. The table [gc] of
    graft.toml has the same settings as the options.

    Example: graft gc --delete --grace 2d
    """
    from graft.cli.show.output import counting, emit
    from graft.cli.show.upkeep import collected_page, survey_document, survey_page
    from graft.upkeep.collecting import collect, survey, totals
    from graft.upkeep.policy import Policy

    options = {
        "grace": grace,
        "activations_unused": activations_unused,
        "drafts_unused": drafts_unused,
    }
    policy, opened = Policy.of(Path.cwd(), options), open_store(store)
    if not delete:
        surveyed = survey(opened, policy)
        emit(survey_document(surveyed), json, lambda: survey_page(surveyed, policy))
        return
    _check_fences(opened, alone)
    with counting("removing", "objects") as progress:
        collected = collect(opened, policy, progress)
    document = {
        "removed": {
            what: {"objects": objects, "bytes": size}
            for what, (objects, size) in totals(collected.removed).items()
        },
        "objects": len(collected.removed),
        "bytes": sum(each.entry.size for each in collected.removed),
        "marked": collected.marked,
    }
    emit(document, json, lambda: collected_page(collected, policy))


def _check_fences(store: "Store", alone: bool) -> None:
    """Refuse to remove anything where a claim excludes nobody.

    Raises:
        InputError: the storage's conditional writes are not exclusive.
    """
    from graft.errors import InputError
    from graft.store.probe import fences

    if not (alone or store.is_directory or fences(store)):
        raise InputError(
            f"conditional writes at {store.uri} are not exclusive, so that a job could commit "
            "something that refers to what is removed at the same moment; make sure that nothing "
            "else uses the store, then add --alone"
        )
