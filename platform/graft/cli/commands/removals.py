"""`graft runs|sweeps|reports rm` and `graft models rm`: what is removed from lists.

Each is a command of the noun's own; they are together since they are one command four times.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

if TYPE_CHECKING:
    from graft.store import Store
    from graft.upkeep.removing import Removed

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask first.")]


def rm_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")],
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove it although it is not finished.")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a run: its name, its spec and its result.

    Its checkpoints and metrics stay until `graft gc` removes them; a model that it registered
    stays. A run is refused that is not finished, or is a trial of a sweep that is not.

    Example: graft runs rm ants-bees-20260101-120000-1a2b
    """
    from graft.upkeep.removing import check_run, remove_run

    opened = open_store(store)
    check_run(opened, run, force)
    _ask(opened, run, yes)
    _tell(opened, remove_run(opened, run), json)


def rm_sweep(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id.")],
    yes: Yes = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a sweep: its name, its spec and its result.

    Its trials' records and weights stay until `graft gc` removes them; runs of their own, and the
    model that it registered, stay. A sweep is refused that is at work, or is of a report that is
    not finished.

    Example: graft sweeps rm ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import note
    from graft.upkeep.removing import check_sweep, remove_sweep

    opened = open_store(store)
    check_sweep(opened, sweep)
    _ask(opened, sweep, yes)
    _tell(opened, remove_sweep(opened, sweep, note), json)


def rm_report(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="A report's id.")],
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove it although it is evidence of a version.")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a report: its figures, and its name.

    Its page and pictures stay until `graft gc` removes them. That it used images which judge stays
    on record. A report is refused that is at work, or is evidence of a model version.

    Example: graft reports rm ants-bees-1-on-ants-bees-575ff852-test
    """
    from graft.cli.show.output import note
    from graft.upkeep.removing import check_report, remove_report

    opened = open_store(store)
    check_report(opened, report, force)
    _ask(opened, report, yes)
    _tell(opened, remove_report(opened, report, note), json)


def rm_model(
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="Which version.")],
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove it although others began with its weights.")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a version, with what its answers mean.

    Its weights stay until `graft gc` removes them; no other version gets its number. A version is
    refused that an alias points at, or that others began with.

    Example: graft models rm ants-bees@2
    """
    from graft.cli.mover import mover_of
    from graft.errors import InputError
    from graft.registry import get_model
    from graft.upkeep.removing import check_version, remove_model_version

    name, _, number = ref.partition("@")
    if not number.isdecimal():
        raise InputError(f"'{ref}': expected NAME@VERSION, with a number, such as {name}@1")
    opened = open_store(store)
    version = get_model(opened, ref)
    check_version(opened, version, force)
    _ask(opened, ref, yes)
    who = mover_of("graft models rm").who
    _tell(opened, remove_model_version(opened, version, who), json)


def _ask(store: "Store", name: str, yes: bool) -> None:
    from graft.cli.show.output import confirm

    if not yes:
        confirm(f"Remove {name} from {store.uri}?")


def _tell(store: "Store", removed: "Removed", json: bool) -> None:
    from dataclasses import asdict

    from rich.text import Text

    from graft.cli.show.output import emit
    from graft.units import size

    left = f"{removed.objects:,} objects, {size(removed.bytes)}, stay in {store.uri}"
    emit(
        asdict(removed),
        json,
        lambda: Text(f"{removed.removed} is removed; {left} until graft gc --delete removes them"),
    )
