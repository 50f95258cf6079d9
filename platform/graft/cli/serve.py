"""`graft serve`: answer for a model over HTTP until stopped."""

import sys
from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri
from graft.cli.output import console, emit


def serve(
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]")],
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
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP with Ray Serve, until Ctrl-C or SIGTERM.

    The golden images have to give the outputs that training recorded, or it does not
    start. With --follow the version that the alias is moved to takes over without a gap,
    once its golden images match. With --json the one document is printed as soon as the
    server answers.
    """
    import threading
    from contextlib import ExitStack, suppress

    from graft.errors import InputError
    from graft.registry import CHAMPION, get_model
    from graft.store import Store

    opened = Store.open(store)
    alias = None
    if follow:
        name, _, which = ref.partition("@")
        alias = which or CHAMPION
        if alias.isdecimal():
            raise InputError(
                f"--follow {ref}: a version never moves; name an alias, as in {name}@{CHAMPION}"
            )
        ref = f"{name}@{alias}"
    version = get_model(opened, ref)

    with console.status(f"starting a server for {version.ref}") as status:
        from graft.cluster.local import ray_session
        from graft.serving.deployment import free_port, serve_model

        port = free_port(host, port)
        with ray_session(), ExitStack() as stack:
            url = stack.enter_context(
                serve_model(opened, version, host, port, replicas, cpus_per_replica, alias)
            )
            status.stop()
            address = f"{url}/v1/models/{version.name}/predict"
            document = {"model": version.ref, "url": url, "predict": address, "docs": f"{url}/docs"}
            emit(document, json, lambda: f"{version.ref} answers at {url}")
            sys.stdout.flush()
            console.print(
                f"  API: {url}/docs\n"
                f"  curl --data-binary @IMAGE {address}\n"
                f"  graft predict {version.name} IMAGE --url {url}\n"
                "Ctrl-C stops it.",
                soft_wrap=True,  # lines to copy stay lines
                highlight=False,
            )
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            console.print("stopping")
