"""`graft serve`: answer for a model over HTTP until stopped."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graft.cli.options import DEFAULT_STORE, Json, Model, StoreUri, open_store
from graft.cli.show.output import console, emit, note
from graft.serving.limits import DEFAULT_LIMITS, MOST_MEGAPIXELS, Limits

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
        int, typer.Option(min=1, help="CPUs that each reserves, and the most threads that compute.")
    ] = 1,
    engine: Annotated[
        Literal["auto", "torch", "onnx"],
        typer.Option(
            envvar="GRAFT_ENGINE",
            help="What computes. onnx: ONNX Runtime. auto: the faster of them that answers alike.",
        ),
    ] = "auto",
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who may ask: the keys that `graft keys new` makes."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Everybody may ask who reaches --host.")
    ] = False,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Origin of pages that may ask from a browser (CORS), as https://lab.example; "
            "* for all. Repeatable.",
        ),
    ] = None,
    max_megapixels: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=MOST_MEGAPIXELS,
            help="Larger images are refused; each million of pixels takes up to 9 MiB.",
        ),
    ] = DEFAULT_LIMITS.megapixels,
    access_log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A line of JSON for every request; `-`: on stdout."),
    ] = None,
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
    once its golden images match. Without keys the server listens on this machine alone, unless
    --no-auth says so. When it is stopped it takes no more requests, and finishes those that have
    begun, for up to 40 seconds. With --json, the document is printed as soon as the server answers.

    Example: graft serve ants-bees --follow --replicas 2
    """
    import threading
    from contextlib import ExitStack, suppress

    from graft.registry import get_model

    _check_who_may_ask(host, keys, no_auth)
    _check_log(access_log, json)
    origins = _checked_origins(origin or [])
    opened = open_store(store)
    alias = None
    if follow:
        name, alias = _alias_to_follow(ref)
        ref = f"{name}@{alias}"
    version = get_model(opened, ref)

    with console.status(f"starting a server for {version.ref}") as status:
        from graft.cluster.local_ray import ray_session
        from graft.serving.access_log import pipe_to_stdout
        from graft.serving.deployment import Access, Capacity, free_port, serve_model

        port = free_port(host, port)
        capacity = Capacity(replicas, cpus_per_replica)
        with ExitStack() as stack:
            log = str(Path(access_log).absolute()) if access_log else None
            if access_log == "-":
                log = stack.enter_context(pipe_to_stdout())
            access = Access(str(keys.absolute()) if keys else None, log, origins)
            stack.enter_context(ray_session(_show_replica))
            url = stack.enter_context(
                serve_model(
                    opened,
                    version,
                    host,
                    port,
                    capacity,
                    alias,
                    access,
                    Limits(megapixels=max_megapixels),
                    engine,
                )
            )
            status.stop()
            _announce(version, url, json, wants_key=keys is not None)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            note("stopping: requests that have begun are finished first; Ctrl-C cuts them off")


def _check_who_may_ask(host: str, keys: Path | None, no_auth: bool) -> None:
    """Check that nobody else reaches a server that wants no key, unless the user says so.

    Raises:
        InputError: others would, or there are no such keys.
    """
    from graft.errors import InputError
    from graft.serving.keys import read_keys

    if keys is not None and no_auth:
        raise InputError("--keys and --no-auth: either those who have a key may ask, or everybody")
    if keys is not None:
        read_keys(keys)
    elif not no_auth and not _is_this_machine(host):
        raise InputError(
            f"--host {host}: others would reach this server, and it wants no key. Make one with "
            "`graft keys new keys.json NAME` and give --keys keys.json; or give --no-auth, where "
            "everybody may ask, or a proxy before it knows who does"
        )


def _check_log(access_log: str | None, json: bool) -> None:
    """Check that an access log can be written where it is to be.

    Raises:
        InputError: it cannot, or stdout is to have one JSON document alone.
    """
    from graft.errors import InputError
    from graft.serving.access_log import AccessLog

    if access_log == "-" and json:
        raise InputError("--access-log - and --json: both want stdout; give the log a file")
    if access_log not in (None, "-"):
        AccessLog(access_log)


def _checked_origins(origins: list[str]) -> tuple[str, ...]:
    """Return the origins of pages that may ask.

    Raises:
        InputError: one is none.
    """
    from graft.errors import InputError
    from graft.serving.origins import checked_origin

    try:
        return tuple(map(checked_origin, origins))
    except ValueError as error:
        raise InputError(f"--origin {error}") from error


def _is_this_machine(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens at `host`."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: what it resolves to may change
        return False


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


def _announce(version: "ModelVersion", url: str, json: bool, wants_key: bool) -> None:
    """Print where the server answers, and how to ask it."""
    address = f"{url}/v1/models/{version.name}/predict"
    document = {"model": version.ref, "url": url, "predict": address, "docs": f"{url}/docs"}
    emit(document, json, lambda: f"{version.ref} answers at {url}")
    sys.stdout.flush()
    header, key = ("-H 'X-API-Key: KEY' ", " --key KEY") if wants_key else ("", "")
    note(
        f"  API: {url}/docs\n"
        f"  curl {header}--data-binary @IMAGE {address}\n"
        f"  graft predict {version.name} IMAGE --url {url}{key}\n"
        "Ctrl-C stops it."
    )
