"""The Ray that a command runs on: the cluster that ``RAY_ADDRESS`` names, else one of its own."""

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from graft.cluster.job_inputs import store_problem
from graft.errors import ClusterLost, ResourceError
from graft.own_ray import OWN_RAY
from graft.store import Store
from graft.units import duration

DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # unset, Ray warns that it will become 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 would let whatever else runs starve the training
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
"""Environment variables for Ray, which the user's own settings override."""
OWN_DEFAULTS = {
    # What Ray takes for laptops with Windows and macOS: every process of it listens on 127.0.0.1.
    # Else all do on all addresses, and whoever reaches one runs code as this user.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of this machine reach 127.0.0.1, too.
    "RAY_AUTH_MODE": "token",
    OWN_RAY: "1",
}
"""The same for a Ray of our own, on this machine."""
CONNECT_TIMEOUT_S = 5
JOIN_S = 900.0
"""Seconds in which workers have to join a new head node, where a job says nothing else."""
STOP_S = 30
"""Seconds in which Ray kills the driver of a job that was stopped."""
STORE_S = 180
"""Seconds in which a store that failed has to work again."""
STORE_EVERY_S = 5


@contextlib.contextmanager
def ray_session(show: Callable[[str, str], object] | None = None) -> Iterator[None]:
    """Connect to a running Ray, or start a Ray that ends with the block.

    Where this process already uses a Ray, that is used, and goes on after the block. From here on
    SIGTERM, which Kubernetes sends, acts like Ctrl-C.

    Args:
        show: called, in a thread, with an actor's name and each line that it writes to stderr.

    Raises:
        ClusterLost: nothing answers at ``RAY_ADDRESS``.
    """
    address = os.environ.get("RAY_ADDRESS")
    starts_one = address in (None, "", "local")
    defaults = DEFAULTS | OWN_DEFAULTS | _token() if starts_one else DEFAULTS
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    if starts_one:
        _read_environment_again()
    silence = ClusterLost(
        f"no Ray answers at RAY_ADDRESS={address}; start one, or unset RAY_ADDRESS "
        "to run on this machine alone"
    )
    if address not in (None, "", "auto", "local") and not _listens(address):
        raise silence
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=show is not None,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise silence from error
    except Exception as error:
        if not starts_one:
            raise
        raise ClusterLost(
            f"Ray did not start on this machine: {str(error).strip().partition(chr(10))[0]} "
            "Where it has too much to do, or too little memory, it may start later"
        ) from error
    if show is not None:
        _show_instead_of_ray(show)
    with contextlib.suppress(ValueError):  # only the main thread may
        # Ray's own handler would abort, and leave its processes behind.
        handler = on_sigterm if callable(on_sigterm) else signal.default_int_handler
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def silent_core() -> Iterator[None]:
    """Keep what Ray's core, which is no Python, writes to stderr from the user during the block.

    Ray Data starts actors in a way of which the core warns, as of an error. Its log has that, too.
    """
    sys.stderr.flush()
    ours = os.dup(2)
    before = sys.stderr
    try:
        with open(os.devnull, "wb") as nowhere, os.fdopen(ours, "w", buffering=1) as stderr:
            sys.stderr = stderr
            os.dup2(nowhere.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(ours, 2)
    finally:
        sys.stderr = before


def _read_environment_again() -> None:
    """Have Ray see our defaults: it reads them when it is imported, which may have been before."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = os.environ[name].lower() in ("1", "true")
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _token() -> dict[str, str]:
    """Return a token for a Ray of our own, unless the user has one for all of theirs.

    It is in the environment of this process and of Ray's: only this user, and root, can read that.
    """
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _show_instead_of_ray(show: Callable[[str, str], object]) -> None:
    """Have Ray pass on what actors write to stderr, in place of printing all processes' output."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    def pass_on(batch: dict[str, Any]) -> None:
        if batch["is_err"]:
            for line in batch["lines"]:
                show(batch["actor_name"] or "", line)

    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("graft", pass_on)


def wait_for_workers(cpus: int, gpus: int, within_s: float = JOIN_S) -> None:
    """Wait until the connected Ray has these CPUs and GPUs.

    When a head node has died, the new one runs before its workers have joined it. KubeRay holds its
    start deadline for the pods of a new cluster, and not for those that it starts again in one.

    Raises:
        ResourceError: it has not got them within that time.
    """
    import ray

    deadline = time.monotonic() + within_s
    while True:
        resources = ray.cluster_resources()
        joined = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if joined[0] >= cpus and joined[1] >= gpus:
            return
        if time.monotonic() > deadline:
            raise ResourceError(
                f"its workers brought {joined[0]} of {cpus} CPUs and {joined[1]} of {gpus} GPUs "
                f"within {duration(within_s)} (jobs.startDeadlineSeconds); another attempt begins "
                "on a new cluster"
            )
        time.sleep(0.5)


def wait_for_store(store: Store) -> None:
    """Wait until a store that failed can be used again, for three minutes at most.

    Soon after a driver has ended its pod is gone, and with it the process that ships its log.
    """
    deadline = time.monotonic() + STORE_S
    while store_problem(store) and time.monotonic() < deadline:
        time.sleep(STORE_EVERY_S)


def stop_this_job() -> None:
    """If this process is the driver of a Ray job, end that job as stopped, not as failed.

    KubeRay makes another cluster for a job that failed, even where it would fail again.
    """
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if submission := config.get("metadata", {}).get("job_submission_id"):
        from ray.job_submission import JobSubmissionClient

        JobSubmissionClient(os.environ["RAY_ADDRESS"]).stop_job(submission)
        time.sleep(STOP_S)  # until it is killed


def _listens(address: str) -> bool:
    """Whether anything listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        return True
    return False
