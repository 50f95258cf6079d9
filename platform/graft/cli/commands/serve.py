"""`graft serve`: answer for a model over HTTP until stopped."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Json, Model, StoreUri, open_store
from graft.cli.show.output import console, emit, note

if TYPE_CHECKING:
    from graft.registry import ModelVersion


def serve(
    ref: Model,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    cpus_per_replica: Annotated[
        int, typer.Option(min=1, help="CPUs that each reserves, and its torch threads.")
    ] = 1,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go with the alias (champion, if none is named) as it moves."
        ),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Serve a model over HTTP until Ctrl-C or SIGTERM.

    On Ray Serve. It does not start unless the golden images give the outputs that training
    recorded. With --follow, the version that the alias is moved to takes over without a gap,
    once its golden images match. With --json, the document is printed as soon as the server
    answers.

    Example: graft serve ants-bees --follow --replicas 2
    """
    import threading
    from contextlib import ExitStack, suppress

    from graft.registry import get_model

    opened = open_store(store)
    alias = None
    if follow:
        name, alias = _alias_to_follow(ref)
        ref = f"{name}@{alias}"
    version = get_model(opened, ref)

    with console.status(f"starting a server for {version.ref}") as status:
        from graft.cluster.local_ray import ray_session
        from graft.serving.deployment import Capacity, free_port, serve_model

        port = free_port(host, port)
        capacity = Capacity(replicas, cpus_per_replica)
        with ray_session(_show_replica), ExitStack() as stack:
            url = stack.enter_context(serve_model(opened, version, host, port, capacity, alias))
            status.stop()
            _announce(version, url, json)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            note("stopping")


def _alias_to_follow(ref: str) -> tuple[str, str]:
    """Return the model's name and the alias in NAME[@ALIAS]; without one, it is the champion.

    Raises:
        InputError: it names a version, which never moves.
    """
    from graft.errors import InputError
    from graft.registry import CHAMPION

    name, _, alias = ref.partition("@")
    if alias.isdecimal():
        raise InputError(
            f"--follow {ref}: a version never moves; name an alias, as in {name}@{CHAMPION}"
        )
    return name, alias or CHAMPION


def _show_replica(actor: str, line: str) -> None:
    """Print what a replica logs: errors, and where an alias went that it follows."""
    if actor.startswith("ServeReplica:"):
        note(line)


def _announce(version: "ModelVersion", url: str, json: bool) -> None:
    """Print where the server answers, and how to ask it."""
    address = f"{url}/v1/models/{version.name}/predict"
    document = {"model": version.ref, "url": url, "predict": address, "docs": f"{url}/docs"}
    emit(document, json, lambda: f"{version.ref} answers at {url}")
    sys.stdout.flush()
    note(
        f"  API: {url}/docs\n"
        f"  curl --data-binary @IMAGE {address}\n"
        f"  graft predict {version.name} IMAGE --url {url}\n"
        "Ctrl-C stops it."
    )
