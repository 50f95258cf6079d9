"""Ray Serve on the connected Ray, with an HAProxy of its own: started, waited for, stopped."""

import contextlib
import socket
import time

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from graft.errors import ResourceError, ServingError
from graft.serving import haproxy

STARTS = 3
"""How often HAProxy is started at most, each time on other free ports."""
READY_TIMEOUT_S = 60.0
"""How long HAProxy may take to route to replicas that are up, in seconds."""


def free_port(host: str, port: int) -> int:
    """Return `port` if it is free, or for 0 any free port.

    Raises:
        ResourceError: `host`:`port` is taken, or cannot be listened at.
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


def start_serve(folder: str, host: str, port: int) -> int:
    """Start Ray Serve, with HAProxy's files in a folder; return the port HAProxy listens at.

    Between our look for free ports and its start another process may take one: then it ends, and is
    started on other ones.

    Raises:
        ResourceError: the port is taken.
        ServingError: HAProxy does not start.
    """
    starts = 0
    while True:
        listens_at = free_port(host, port)
        try:
            serve.start(
                proxy_location="HeadOnly",
                # HAProxy alone listens at `host`; what is behind it does not.
                http_options={"host": "127.0.0.1", "port": listens_at},
                controller_options={"runtime_env": {"env_vars": haproxy_environment(folder, host)}},
            )
            return listens_at
        except RuntimeError as error:  # Ray's own, with the traceback as its message
            stop_serve()
            starts += 1
            if starts == STARTS:
                reason = str(error).strip().splitlines()[-1]
                raise ServingError(f"HAProxy does not start: {reason}") from error


def wait_until_ready(url: str) -> None:
    """Wait until HAProxy routes to replicas that are up.

    Raises:
        ServingError: it does not within `READY_TIMEOUT_S`.
    """
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


def stop_serve() -> None:
    """Stop Ray Serve, if it runs, and wait until it has ended."""
    # Not serve.shutdown(): it retries the call in which the controller ends itself, and Ray
    # prints that on stdout.
    with contextlib.suppress(ValueError, RayActorError):
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote())


def haproxy_environment(folder: str, host: str = "127.0.0.1") -> dict[str, str]:
    """Return the environment of Serve's controller, which its proxies and replicas inherit.

    It gives HAProxy files and ports of its own: by default every Ray on a machine uses the same.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": haproxy.script(),
        haproxy.HOST: host,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # On a busy machine the proxy is not up within Ray's 5 seconds, and would be killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": f"{READY_TIMEOUT_S:.0f}",
        "OMP_WAIT_POLICY": "PASSIVE",  # torch's threads sleep, too, while they have no work
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port("127.0.0.1", 0)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port("127.0.0.1", 0)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port("127.0.0.1", 0)),
        # Draining serves clusters that replace replicas under load; here the whole server stops.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # A proxy that fails three times is started again: not while it drains.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": str(haproxy.DRAIN_S / 2),
    }
