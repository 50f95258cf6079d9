"""Models on Ray Serve: replicas behind HAProxy, which talks to them directly.

This module and `ray_serve`, which starts Ray Serve itself, alone know Ray. A request takes no
actor call: HAProxy forwards it to a replica's own HTTP server, whose event loop runs the ASGI app.
"""

import contextlib
import logging
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import ray
from fastapi import FastAPI
from pydantic import AfterValidator, Field, model_validator
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.schema import ApplicationStatusOverview

from graft import errors
from graft.backbones.malloc import share_freed_memory
from graft.backbones.process_setup import set_up_process
from graft.cpus import fitting_threads
from graft.errors import GraftError, ResourceError, ServingError
from graft.registry import CHAMPION, ModelVersion
from graft.serving import haproxy, keys, ray_serve
from graft.serving.access_log import AccessLog
from graft.serving.alias_follower import POLL_S, Follower, Loads, Polling
from graft.serving.app import create_app
from graft.serving.engines.choice import Place
from graft.serving.engines.engine import EngineSetting
from graft.serving.keys import KeyRing
from graft.serving.limits import DEFAULT_LIMITS, MOST_MEGAPIXELS, Limits
from graft.serving.loader import Loader
from graft.serving.origins import checked_origin
from graft.serving.ray_metrics import RayMetrics
from graft.serving.shared_trunks import TAILS_GB, SharedTrunks
from graft.spec.section import AliasName, Id, Name, Positive, PositiveFloat, Section
from graft.store import Store

STOP_TIMEOUT_S = 5.0
"""How long a replica may take to end when the server stops, in seconds: its requests have."""
DRAIN_TIMEOUT_S = 30 + haproxy.DRAIN_S
"""The same for a replica of a RayService. For its first 30 seconds Ray Serve has it take requests
still, since other nodes' HAProxies may not know yet that it ends."""
PATIENCE_S = 600.0
"""How long a replica of a RayService waits for its model, in seconds, before it gives up, says why
in the RayService's status, and is started again: that costs six CPU seconds, and log files."""
ADMITTED = 10_000
"""More requests than a replica is ever asked at once: HAProxy has fewer connections."""
FOREVER = 2**31 - 1
"""The most constructor retries that Ray Serve can count."""


@dataclass(frozen=True)
class Capacity:
    """How many processes answer, and what each of them reserves."""

    replicas: int = 1
    cpus_per_replica: int = 1
    """Logical CPUs of each replica, and the most threads that compute in it."""


ONE_REPLICA = Capacity()


@dataclass(frozen=True)
class Access:
    """Who may ask a server, and where it is written who did."""

    keys: str | None = None
    """Path of the file of their keys, at every replica; None: everybody may."""
    log: str | None = None
    """Path, at every replica, of the file or pipe of its access log; None: there is none."""
    origins: tuple[str, ...] = ()
    """Origins of pages in browsers that may ask."""


FOR_ALL = Access()


@dataclass(frozen=True)
class ServedModels:
    """What each replica of a deployment answers for."""

    refs: tuple[str, ...]
    """NAME@ALIAS, which is followed, or NAME@VERSION; each of another name."""
    tails_gb: float = TAILS_GB
    """What tails may take of a replica's memory where it has several models, in gigabytes."""

    @property
    def name(self) -> str:
        """The deployment's name: that of its one model, or `models`."""
        return self.refs[0].partition("@")[0] if len(self.refs) == 1 else "models"

    def loader(self, store: Store, place: Place) -> Loads:
        """Return what loads versions in a replica."""
        if len(self.refs) == 1:
            return Loader(store, place)
        return SharedTrunks(store, place, self.tails_gb)


class Replica:
    """One process that answers; Ray Serve starts it and runs its app.

    It is up only once a version's golden images have matched.
    """

    def __init__(
        self,
        store_uri: str,
        models: ServedModels,
        place: Place,
        polling: Polling,
        access: Access,
        limits: Limits,
    ):
        """Load what is to be served, and follow aliases and engines.

        `place` is where it answers, but for the threads and the device that this process gets.
        """
        _listen_at_this_node_alone()
        share_freed_memory()
        device = set_up_process(place.threads, len(ray.get_gpu_ids()))
        threads = fitting_threads(place.threads)
        _log_to_stderr()
        ring = KeyRing(Path(access.keys)) if access.keys else None
        place = replace(place, threads=threads, device=device)
        loader = models.loader(Store.open(store_uri), place)
        followers = Follower.wait_for_some(loader, models.refs, polling)
        for follower in followers:
            _in_background(follower.follow, polling.every_s)
        if ring is not None:
            _in_background(ring.follow, keys.POLL_S)
        self._metrics = RayMetrics(followers)
        watchers = (self._metrics, *([AccessLog(access.log)] if access.log else ()))
        # Ray Serve puts X-Request-Id into answers itself.
        self._app = create_app(
            *followers,
            decode_threads=threads,
            limits=limits,
            origins=access.origins,
            ring=ring,
            watchers=watchers,
            echoes_ids=False,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray Serve calls this once the replica is up."""
        return self._app

    async def check_health(self) -> None:
        """Predict an image; Ray Serve replaces a replica that fails three times in a row."""
        self._metrics.refresh()
        await self._app.state.check()


def _in_background(follow: Callable[[float, threading.Event], None], every_s: float) -> None:
    """Follow something for as long as this process lives."""
    never = threading.Event()
    threading.Thread(target=follow, args=(every_s, never), daemon=True).start()


class Followed(Section):
    """A model, served by the version that an alias points at."""

    name: Name
    """The model's name."""
    alias: AliasName = CHAMPION
    """The alias that points at the version to serve."""


class Following(Section):
    """What `following` serves: the ``args`` of an application in a RayService's config."""

    store: str
    """URI of the store, as every replica's node reaches it."""
    models: Annotated[tuple[Followed, ...], Field(min_length=1)]
    """The models that every replica answers for."""
    tails_gb: PositiveFloat = TAILS_GB
    """What tails may take of a replica's memory where it has several models, in gigabytes."""
    replicas: Positive = 1
    """Processes that answer, where the deployment's own `num_replicas` does not say how many: that
    may change without a restart of those that are there."""
    cpus_per_replica: Positive = 1
    """Logical CPUs that each replica reserves, and the most threads that compute in it."""
    engine: EngineSetting = "auto"
    """What computes: the faster one that passes on all replicas' processors, or the one named.
    Of several models it computes the trunks."""
    deployment: Id = "default"
    """Name of these replicas in the store, where what `auto` has chosen for them is recorded."""
    poll_s: PositiveFloat = POLL_S
    """How often each replica looks where the alias points, in seconds."""
    keys: str | None = None
    """Path, in every pod, of the file of keys of those who may ask."""
    no_auth: bool = False
    """Whether everybody may ask who reaches the pods."""
    origins: tuple[Annotated[str, AfterValidator(checked_origin)], ...] = ()
    """Origins of pages in browsers that may ask, as `https://HOST`; `*`: all may."""
    max_megapixels: Annotated[float, Field(gt=0, le=MOST_MEGAPIXELS)] = DEFAULT_LIMITS.megapixels
    """Most millions of pixels of an image."""
    access_log: str | None = None
    """Path, in every pod, of the file or pipe of the access log; null: none."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_chart(cls, args: Any) -> Any:
        """Take `model` and `alias` as the only model, as charts of one model an application say."""
        if not isinstance(args, dict) or "model" not in args or "models" in args:
            return args
        model = {"name": args["model"], "alias": args.get("alias", CHAMPION)}
        others = {key: value for key, value in args.items() if key not in ("model", "alias")}
        return {**others, "models": [model]}

    @model_validator(mode="after")
    def _has_each_model_once(self) -> "Following":
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: '{name}' stands twice; expected each model once")
        return self

    @model_validator(mode="after")
    def _says_who_may_ask(self) -> "Following":
        if (self.keys is None) != self.no_auth:
            raise ValueError(
                "expected either `keys`, the path of a file that `graft keys new` makes, "
                "or `no_auth: true`, with which everybody may ask who reaches the pods"
            )
        return self


def following(args: Following) -> Application:
    """Return the application that answers with the versions that aliases point at.

    A RayService's ``serveConfigV2`` names it: ``import_path: graft.serving.deployment:following``.
    A promotion changes neither that config nor the cluster: each replica loads the new
    version beside the old one, checks its golden images, and swaps.

    A replica that cannot answer for any model (no such alias yet, golden images that differ) says
    why after `PATIENCE_S` and is started again. By default Ray Serve gives up for good after 3
    tries a replica; a large ``RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT`` in the head's environment
    makes it try without end. The fast path needs ``RAY_SERVE_ENABLE_HA_PROXY=1`` and
    ``RAY_SERVE_THROUGHPUT_OPTIMIZED=1`` in every pod.
    """
    capacity = Capacity(args.replicas, args.cpus_per_replica)
    refs = tuple(f"{model.name}@{model.alias}" for model in args.models)
    models = ServedModels(refs, args.tails_gb)
    # Ray Serve's config names the deployment, too, to give it replicas, GPUs or a class of nodes.
    name = args.models[0].name
    deployment = _deployment(name, capacity, tries=FOREVER, stop_s=DRAIN_TIMEOUT_S)
    polling = Polling(args.poll_s, PATIENCE_S)
    access = Access(args.keys, args.access_log, args.origins)
    limits = Limits(megapixels=args.max_megapixels)
    place = Place(args.engine, args.deployment, args.cpus_per_replica)
    return deployment.bind(args.store, models, place, polling, access, limits)


def _deployment(name: str, capacity: Capacity, tries: int, stop_s: float) -> Deployment:
    return serve.deployment(
        serve.ingress()(Replica),
        name=name,
        num_replicas=capacity.replicas,
        ray_actor_options={"num_cpus": capacity.cpus_per_replica},
        # Whatever comes reaches our own doors, which refuse at once, in JSON, what would wait for
        # long; a request that Ray Serve holds back has its body in memory, and no bound.
        max_ongoing_requests=ADMITTED,
        max_constructor_retry_count=tries,
        graceful_shutdown_timeout_s=stop_s,
        logging_config={"enable_access_log": False},
    )


def _listen_at_this_node_alone() -> None:
    """Have Ray Serve bind this replica's gRPC server to its node's address, once it does.

    It takes pickles from whoever reaches it, and would listen on all addresses. On a laptop the
    node's address is 127.0.0.1; in a cluster other nodes' proxies have to reach it.
    """
    from ray.serve._private import replica

    add = replica.add_port_to_grpc_server
    address = ray.util.get_node_ip_address()

    def add_port(server: Any, listen: str) -> int:
        return int(add(server, listen.replace("[::]", address)))

    replica.add_port_to_grpc_server = add_port


def _log_to_stderr() -> None:
    """Write a follower's messages to Ray's worker-*.err at once.

    `sys.stderr` is Ray Serve's log, which holds lines back.
    """
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger("graft").addHandler(handler)


@contextlib.contextmanager
def serve_model(
    store: Store,
    version: ModelVersion,
    host: str = "127.0.0.1",
    port: int = 8000,
    capacity: Capacity = ONE_REPLICA,
    alias: str | None = None,
    access: Access = FOR_ALL,
    limits: Limits = DEFAULT_LIMITS,
    engine: EngineSetting = "torch",
) -> Iterator[str]:
    """Serve a version on the connected Ray until the block ends; yields the URL once it answers.

    It is followed where an `alias` is given that points at it; all else as `serve_models`.
    """
    ref = f"{version.name}@{alias}" if alias else version.ref
    models = ServedModels((ref,))
    with serve_models(store, models, host, port, capacity, access, limits, engine) as url:
        yield url


@contextlib.contextmanager
def serve_models(
    store: Store,
    models: ServedModels,
    host: str = "127.0.0.1",
    port: int = 8000,
    capacity: Capacity = ONE_REPLICA,
    access: Access = FOR_ALL,
    limits: Limits = DEFAULT_LIMITS,
    engine: EngineSetting = "torch",
) -> Iterator[str]:
    """Serve models on the connected Ray until the block ends; yields the URL once they answer.

    At the end no connection is taken any more, and requests that have begun are finished first, for
    up to `haproxy.DRAIN_S` seconds.

    Args:
        store: the store that has them; replicas open it by its URI.
        models: what is served.
        host: address of this machine to listen at; 0.0.0.0 for all.
        port: TCP port; 0 for a free one.
        capacity: how many replicas answer, and the CPUs of each.
        access: who may ask, and where it is written who did.
        limits: what each replica bears.
        engine: what computes, of several models their trunks; what `auto` chooses is recorded in
            the store for this machine.

    Raises:
        ResourceError: the port is taken, or Ray has fewer CPUs than the replicas ask for, or the
            engine is not installed.
        ServingError: a replica's golden images do not give the recorded outputs, or the
            server does not come up.
    """
    # Serve would log about its own controller and applications.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _check_capacity(capacity)
    # One try: a missing payload, or golden images that differ, would fail again.
    deployment = _deployment(models.name, capacity, tries=1, stop_s=STOP_TIMEOUT_S)
    # A short path, not TMPDIR's: that of HAProxy's Unix socket may have at most 107 characters.
    folder = tempfile.TemporaryDirectory(prefix="graft-", dir="/tmp", ignore_cleanup_errors=True)
    with folder, contextlib.ExitStack() as stack:
        stack.callback(ray_serve.stop_serve)
        stack.callback(haproxy.drain, Path(folder.name))
        port = ray_serve.start_serve(folder.name, host, port)
        place = Place(engine, _this_machine(), capacity.cpus_per_replica)
        application = deployment.bind(store.uri, models, place, Polling(), access, limits)
        try:
            serve.run(application, name=models.name)
        except RuntimeError as error:
            raise _failure(serve.status().applications[models.name]) from error
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
        ray_serve.wait_until_ready(url)
        yield url


def _check_capacity(capacity: Capacity) -> None:
    """Check that Ray has the CPUs that replicas reserve.

    Raises:
        ResourceError: it has fewer.
    """
    needed = capacity.replicas * capacity.cpus_per_replica
    available = int(ray.cluster_resources().get("CPU", 0))
    if needed > available:
        raise ResourceError(
            f"{capacity.replicas} replicas of {capacity.cpus_per_replica} CPUs need {needed}, "
            f"Ray has {available}; lower --replicas or --cpus-per-replica"
        )


def _this_machine() -> str:
    """Return the name of this machine, as a key of the store may have it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("._-")
    return f"on-{name}"


def _failure(application: ApplicationStatusOverview) -> GraftError:
    """Return the error that a replica raised, read from the traceback that Ray Serve reports."""
    messages = [status.message for status in application.deployments.values()]
    text = "\n".join(messages) or application.message
    if error := re.search(rf"^{errors.__name__}\.(\w+): (.*)", text, re.MULTILINE | re.DOTALL):
        kind: type[GraftError] = getattr(errors, error[1])
        return kind(error[2].strip())
    return ServingError(f"the model's replica does not start: {text.strip().splitlines()[-1]}")
