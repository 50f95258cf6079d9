"""`graft serve`: answer for a model over HTTP until stopped."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graft.cli.options import DEFAULT_STORE, Json, StoreUri, grouped_options, open_store
from graft.cli.show.output import console, emit, note
from graft.serving.limits import DEFAULT_LIMITS, MOST_MEGAPIXELS, Limits

if TYPE_CHECKING:
    from graft.registry import ModelVersion
    from graft.store import Store


@dataclass(frozen=True)
class _Options:
    """How models are served, and who may ask."""

    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1"
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1
    cpus_per_replica: Annotated[
        int, typer.Option(min=1, help="CPUs that each reserves, and the most threads that compute.")
    ] = 1
    engine: Annotated[
        Literal["auto", "torch", "onnx"],
        typer.Option(
            envvar="GRAFT_ENGINE",
            help="What computes. onnx: ONNX Runtime. auto: the faster of them that answers alike.",
        ),
    ] = "auto"
    tails_gb: Annotated[
        float,
        typer.Option(
            metavar="GB",
            min=0.001,
            help="Memory of each replica for what several models have of their own, in gigabytes; "
            "what was used least recently makes room.",
        ),
    ] = 1.0
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who may ask: the keys that `graft keys new` makes."),
    ] = None
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Everybody may ask who reaches --host.")
    ] = False
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Origin of pages that may ask from a browser (CORS), as https://lab.example; "
            "* for all. Repeatable.",
        ),
    ] = None
    max_megapixels: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=MOST_MEGAPIXELS,
            help="Larger images are refused; each million of pixels takes up to 9 MiB.",
        ),
    ] = DEFAULT_LIMITS.megapixels
    access_log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A line of JSON for every request; `-`: on stdout."),
    ] = None
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go with the alias (champion, if none is named) as it moves."
        ),
    ] = False


@grouped_options
def serve(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME[@VERSION|@ALIAS]]...", help="Which models; or --all."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All models of the store, each as its bare name says.")
    ] = False,
    options: _Options = _Options(),
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Serve models over HTTP until Ctrl-C or SIGTERM.

    On Ray Serve. It does not start unless the golden images give the outputs that training
    recorded. With --follow, the version that an alias is moved to takes over without a gap,
    once its golden images match; a model that is named with a version stays at it. Models whose
    trunks begin with the same frozen stages have these in memory once, and share forwards.
    Without keys the server listens on this machine alone, unless --no-auth says so. When it is
    stopped it takes no more requests, and finishes those that have begun, for up to 40 seconds.
    With --json, the document is printed as soon as the server answers.

    Example: graft serve ants-bees cats@2 dogs@candidate --follow
    """
    import threading
    from contextlib import ExitStack, suppress

    _check_who_may_ask(options.host, options.keys, options.no_auth)
    _check_log(options.access_log, json)
    origins = _checked_origins(options.origin or [])
    opened = open_store(store)
    served = _served(opened, refs or [], every, options.follow)

    with console.status(f"starting a server for {_listed(served)}") as status:
        from graft.cluster.local_ray import ray_session
        from graft.serving.access_log import pipe_to_stdout
        from graft.serving.deployment import (
            Access,
            Capacity,
            ServedModels,
            serve_models,
        )
        from graft.serving.ray_serve import free_port

        port = free_port(options.host, options.port)
        capacity = Capacity(options.replicas, options.cpus_per_replica)
        with ExitStack() as stack:
            log = str(Path(options.access_log).absolute()) if options.access_log else None
            if options.access_log == "-":
                log = stack.enter_context(pipe_to_stdout())
            keys = str(options.keys.absolute()) if options.keys else None
            access = Access(keys, log, origins)
            stack.enter_context(ray_session(_show_replica))
            models = ServedModels(tuple(one.ref for one in served), options.tails_gb)
            url = stack.enter_context(
                serve_models(
                    opened,
                    models,
                    options.host,
                    port,
                    capacity,
                    access,
                    Limits(megapixels=options.max_megapixels),
                    options.engine,
                )
            )
            status.stop()
            _announce(served, url, json, wants_key=keys is not None)
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


@dataclass(frozen=True)
class _Served:
    """A model that is to be served."""

    ref: str
    """What replicas are told: NAME@ALIAS is followed, NAME@VERSION stays."""
    version: "ModelVersion"
    """What answers at first."""


def _served(store: "Store", refs: list[str], every: bool, follow: bool) -> list[_Served]:
    """Return the models that refs, or `--all`, name.

    Raises:
        InputError: they name none, or one twice, or with `--follow` versions alone.
        NotFoundError: there is no such model, version or alias.
    """
    from graft.errors import InputError
    from graft.registry import CHAMPION, aliases, get_model
    from graft.registry.versions import model_names

    if every == bool(refs):
        raise InputError(
            "which models? Name some, or give --all"
            if refs == []
            else "--all and names: give one of them"
        )
    refs = refs or model_names(store)
    if not refs:
        raise InputError(f"--all: {store.uri} has no model yet; `graft train` registers them")
    names = [ref.partition("@")[0] for ref in refs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"'{twice}' stands twice: its address has room for one version")
    served = []
    for name, ref in zip(names, refs, strict=True):
        alias = ref.partition("@")[2]
        if every and follow and CHAMPION not in aliases(store, name):
            note(f"{name} has no {CHAMPION} to follow: its newest version is served")
        elif follow and not alias.isdecimal():
            ref = f"{name}@{alias or CHAMPION}"
            served.append(_Served(ref, get_model(store, ref)))
            continue
        version = get_model(store, ref)
        served.append(_Served(version.ref, version))
    if follow and all(one.ref == one.version.ref for one in served):
        raise InputError(
            f"--follow {refs[0]}: a version never moves; name an alias, as in {names[0]}@{CHAMPION}"
        )
    return served


def _listed(served: list[_Served]) -> str:
    return served[0].version.ref if len(served) == 1 else f"{len(served)} models"


def _show_replica(actor: str, line: str) -> None:
    """Print what a replica logs: errors, and where an alias went that it follows."""
    if actor.startswith("ServeReplica:"):
        note(line)


def _announce(served: list[_Served], url: str, json: bool, wants_key: bool) -> None:
    """Print where the server answers, and how to ask it."""
    models = [
        {"model": one.version.ref, "predict": f"{url}/v1/models/{one.version.name}/predict"}
        for one in served
    ]
    document: dict[str, Any] = {"url": url, "docs": f"{url}/docs", "models": models}
    if len(models) == 1:
        document |= models[0]
    refs = ", ".join(one["model"] for one in models)
    emit(document, json, lambda: f"{refs} {'answer' if len(models) > 1 else 'answers'} at {url}")
    sys.stdout.flush()
    header, key = ("-H 'X-API-Key: KEY' ", " --key KEY") if wants_key else ("", "")
    note(
        f"  API: {url}/docs\n"
        f"  curl {header}--data-binary @IMAGE {models[0]['predict']}\n"
        f"  graft predict {served[0].version.name} IMAGE --url {url}{key}\n"
        "Ctrl-C stops it."
    )
