"""A model version on Ray Serve: replicas behind HAProxy, which talks to them directly.

The only module of serving that knows Ray. A request passes no actor call: HAProxy
forwards it to a replica's own HTTP server, whose event loop runs the ASGI app.
"""

import contextlib
import logging
import re
import socket
import tempfile
import time
from collections.abc import Iterator

import httpx
import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import ApplicationStatusOverview

from graft import errors
from graft.backbones.memory import keep_freed_memory
from graft.errors import GraftError, ResourceError, ServingError
from graft.registry import ModelVersion, get_model
from graft.serving.app import MAX_BATCH, create_app
from graft.serving.predictor import Predictor
from graft.store import Store

READY_TIMEOUT_S = 60.0
"""How long HAProxy may take to route to replicas that are up."""
STOP_TIMEOUT_S = 5.0
"""How long a replica may take to finish its requests when the server stops."""


class Replica:
    """One process that answers; Ray Serve starts it and runs its app."""

    def __init__(self, store_uri: str, ref: str, cpus: int):
        torch.set_num_threads(cpus)
        keep_freed_memory()
        store = Store.open(store_uri)
        self._predictor = Predictor.load(store, get_model(store, ref))
        self._cpus = cpus

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray Serve asks for it once the replica is up."""
        return create_app(self._predictor, decode_threads=self._cpus + 1)


def free_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0.

    Raises:
        ResourceError: one cannot listen there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"cannot listen at {host}:{port}: {error.strerror}; "
                "stop what uses it, or choose another --port or --host"
            ) from error
        free: int = probe.getsockname()[1]
        return free


@contextlib.contextmanager
def serve_model(
    store: Store,
    version: ModelVersion,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    cpus_per_replica: int = 1,
) -> Iterator[str]:
    """Serve a version on the connected Ray until the block ends; yields the URL once it answers.

    Args:
        store: where the version lies; replicas open it by its URI.
        version: what is served.
        host: address of this machine to listen at; 0.0.0.0 for all.
        port: TCP port; 0 for a free one.
        replicas: processes that answer.
        cpus_per_replica: logical CPUs that each reserves, and its number of torch threads.

    Raises:
        ResourceError: the port is taken, or Ray has fewer CPUs than the replicas ask for.
        ServingError: a replica's golden images do not give the recorded outputs, or the
            server does not come up.
    """
    # Serve would tell the user of its own controller and applications.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port(host, port)
    asked, have = replicas * cpus_per_replica, int(ray.cluster_resources().get("CPU", 0))
    if asked > have:
        raise ResourceError(
            f"{replicas} replicas of {cpus_per_replica} CPUs need {asked}, Ray has {have}; "
            "lower --replicas or --cpus-per-replica"
        )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=version.name,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus_per_replica},
        # Enough in hand to fill the next batches; then some wait, then 503.
        max_ongoing_requests=8 * MAX_BATCH,
        max_queued_requests=32 * MAX_BATCH,
        # What fails once here fails again: a missing payload, golden images that differ.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=STOP_TIMEOUT_S,
        logging_config={"enable_access_log": False},
    )
    # Short, and not TMPDIR: the path of HAProxy's Unix socket may have 107 characters.
    folder = tempfile.TemporaryDirectory(prefix="graft-", dir="/tmp", ignore_cleanup_errors=True)
    with folder, contextlib.ExitStack() as stack:
        stack.callback(_stop)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port},
            controller_options={"runtime_env": {"env_vars": _fast_path(folder.name)}},
        )
        application = deployment.bind(store.uri, version.ref, cpus_per_replica)
        try:
            serve.run(application, name=version.name)
        except RuntimeError as error:
            raise _failure(serve.status().applications[version.name]) from error
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
        _wait_until_ready(url)
        yield url


def _stop() -> None:
    # serve.shutdown() would retry the call in which the controller ends itself, and Ray
    # would print that on stdout.
    with contextlib.suppress(ValueError, RayActorError):
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote())


def _fast_path(folder: str) -> dict[str, str]:
    """Return the environment of Serve's controller, which its proxies and replicas inherit.

    By default HAProxy's files and ports are the same for every Ray on a machine.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port("127.0.0.1", 0)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port("127.0.0.1", 0)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port("127.0.0.1", 0)),
        # For clusters that replace replicas under load; here the whole server stops.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success:
                return
        if time.monotonic() > deadline:
            raise ServingError(
                f"replicas are up, but {url} does not answer after {READY_TIMEOUT_S:.0f} s; "
                "see Ray's logs of the HAProxyManager"
            )
        time.sleep(0.05)


def _failure(application: ApplicationStatusOverview) -> GraftError:
    """Return what a replica raised, from the traceback that Ray Serve makes of it."""
    messages = [status.message for status in application.deployments.values()]
    text = "\n".join(messages) or application.message
    if found := re.search(rf"^{errors.__name__}\.(\w+): (.*)", text, re.MULTILINE | re.DOTALL):
        kind: type[GraftError] = getattr(errors, found[1])
        return kind(found[2].strip())
    return ServingError(f"the model's replica does not start: {text.strip().splitlines()[-1]}")
