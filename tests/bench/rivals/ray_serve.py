"""An eager torchvision model on Ray Serve, in the handler that its documentation leads to.

Bytes are decoded and forwards run in threads, so that the event loop stays free; tensors are in
torch's default layout, under `inference_mode`. It runs on the Ray and torch that Graft runs on, on
loopback alone. Its one argument is a JSON object; see `Options`. Where that names no workers, Ray
Serve's own defaults hold.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
import torchvision
from answers import Task
from ray import serve
from safetensors.torch import load_file
from starlette.requests import Request

from graft.cluster.local_ray import ray_session
from graft.serving.deployment import _listen_at_this_node_alone
from graft.serving.ray_serve import haproxy_environment


class Options(TypedDict):
    model: str
    """Path of the exported weights; their description lies beside them."""
    port: int
    workers: NotRequired[int]
    threads: NotRequired[int]
    batch: NotRequired[int]
    haproxy: NotRequired[bool]


class Handler:
    def __init__(self, options: Options):
        _listen_at_this_node_alone()
        if "threads" in options:
            torch.set_num_threads(options["threads"])
        self._task = task = Task(f"{options['model']}.json")
        network = torchvision.models.get_model(
            task.description["arch"], weights=None, num_classes=len(task.classes)
        )
        network.load_state_dict(load_file(options["model"]))
        self._network = network.eval()
        self._mean, self._std = (
            torch.tensor(task.contract[name])[:, None, None] for name in ("mean", "std")
        )
        self._pool = ThreadPoolExecutor(options.get("threads", 1) + 1)
        self._batches = options.get("batch", 1) > 1

    async def __call__(self, request: Request) -> dict[str, Any]:
        body = await request.body()
        began = perf_counter()
        pixels = await self._in_thread(self._task.pixels, body)
        decoded = perf_counter()
        if self._batches:
            logits = await self._in_batches(pixels)
        else:
            logits = (await self._in_thread(self._forward, [pixels]))[0]
        return self._task.document(logits, began, decoded)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def _in_batches(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return await self._in_thread(self._forward, images)

    async def _in_thread(self, function: Any, argument: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, argument)

    @torch.inference_mode()
    def _forward(self, images: list[np.ndarray]) -> list[np.ndarray]:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)
        return list(self._network(pixels.sub(self._mean).div(self._std)).numpy())


def main(options: Options) -> None:
    tuned: dict[str, Any] = {}
    if "workers" in options:
        tuned = {
            "num_replicas": options["workers"],
            "ray_actor_options": {"num_cpus": options["threads"]},
            "max_ongoing_requests": 64,
        }
    with tempfile.TemporaryDirectory(prefix="graft-", dir="/tmp") as folder, ray_session():
        # What it needs to have files and ports of its own, and to listen on loopback.
        variables = haproxy_environment(folder) if options.get("haproxy") else {}
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": options["port"]},
            controller_options={"runtime_env": {"env_vars": variables}},
        )
        try:
            serve.run(serve.deployment(Handler, **tuned).bind(options), route_prefix="/predict")
            threading.Event().wait()
        finally:
            serve.shutdown()


if __name__ == "__main__":
    # By its name, by which the replicas import its class, too: pickled whole, torch would be in it.
    import ray_serve

    with contextlib.suppress(KeyboardInterrupt):
        ray_serve.main(json.loads(sys.argv[1]))
