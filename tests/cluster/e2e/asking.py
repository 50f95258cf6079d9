"""A model that the chart serves, asked over HTTP."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from cluster.e2e.cluster import Cluster
from cluster.e2e.team import Team


def served(cluster: Cluster, namespace: str) -> str:
    """Return the URL of what a namespace serves, once it answers."""
    url = f"http://{address(cluster, namespace)}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False

    cluster.wait_for("the served model", answers, 240)
    return url


def address(cluster: Cluster, namespace: str) -> str:
    """Where the chart's NOTES say that the served model answers."""

    def found() -> str:
        services = cluster.find("services", namespace)
        names = [one["metadata"]["name"] for one in services]
        return next((name for name in names if name.endswith("-serve-svc")), "")

    return f"{cluster.wait_for('the Service', found, 180)}.{namespace}.svc.cluster.local:8000"


@contextlib.contextmanager
def asked_steadily(
    url: str, model: str, body: bytes, key: str = "", anew: int = 0, pause_s: float = 0.0
) -> Iterator[list[tuple[int, str]]]:
    """Ask a model in two threads while the block lasts; yields status and version of each answer.

    Where none comes the status is 0. `key`: where it wants one. `anew`: more threads, which open
    a connection for each request, so that any pod may answer it. `pause_s`: between a thread's
    requests; where pods start meanwhile, threads that never wait take the node from them.
    """
    stop, seen = threading.Event(), list[tuple[int, str]]()

    def ask(kept: int | None) -> None:
        limits = httpx.Limits(max_keepalive_connections=kept)
        headers = {"X-API-Key": key}
        with httpx.Client(base_url=url, headers=headers, timeout=30, limits=limits) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"/v1/models/{model}/predict", content=body)
                    seen.append((answer.status_code, answer.json().get("model", "")))
                except httpx.TransportError as error:
                    seen.append((0, repr(error)))
                stop.wait(pause_s)

    threads = [threading.Thread(target=ask, args=(None,)) for _ in range(2)]
    threads += [threading.Thread(target=ask, args=(0,)) for _ in range(anew)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def an_image(team: Team, folder: Path) -> Path:
    """Return one of the team's images, or one of noise."""
    found = next(team.images.rglob("*.jpg"), None)
    if found is None:
        found = folder / "new.jpg"
        pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(found)
    return found
