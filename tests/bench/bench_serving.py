"""Serving: HTTP requests/s of a served model against images/s of the bare model.

A request carries an image file, which the server decodes; the bare model gets decoded
images from memory, one at a time and in batches, of the size and with the number of
threads that suit it best. The clients share the machine with the server. Both run in
turns, and the medians are compared.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from graft.cluster.local_ray import ray_session
from graft.registry import get_model
from graft.serving.deployment import Capacity, serve_model
from graft.serving.predictor import Predictor
from graft.store import Store
from report import report

ANTS_BEES = Path(__file__).parents[2] / ".." / "shared" / "data" / "ants-bees"
GRAFT = Path(sys.executable).with_name("graft")
CORES = len(os.sched_getaffinity(0))
SECONDS = 3.0
ROUNDS = 3
BATCHES = (2, 4, 8, 16)
THREADS = sorted({1, CORES})
CLIENTS = 8 * CORES
IMAGES = 64

JOB = {
    "kind": "finetune",
    "name": "bench",
    "dataset": {"name": "bench"},
    "backbone": {"arch": "squeezenet1_1", "weights": "none", "freeze": "all"},
    "train": {"epochs": 1},
    "register": {"model": "bench"},
}


def generated_images(folder: Path) -> Path:
    """Write JPEGs of 500 by 375 pixels, about as detailed as photographs."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        path = folder / f"class-{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def train(source: Path, uri: str) -> None:
    """Register a model, trained for one epoch, as users do."""
    spec = Path(uri).with_name("job.yaml")
    spec.write_text(json.dumps(JOB))  # JSON is YAML
    for command in (
        ["data", "import", str(source), "--name", "bench", "--test-fraction", "0"],
        ["train", str(spec)],
    ):
        subprocess.run([GRAFT, *command, "--store", uri], check=True, stdout=sys.stderr)


def rate(work: Callable[[], int]) -> float:
    """Repeat `work`, which returns how much it did, for `SECONDS`; return how much a second."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        done += work()
    return done / (time.perf_counter() - started)


def bare_rate(predictor: Predictor, files: list[bytes], batch: int, threads: int) -> float:
    torch.set_num_threads(threads)
    images = [predictor.prepare(data) for data in files[:batch]]
    return rate(lambda: len(predictor.predict(images)))


def http_rate(url: str, files: list[bytes]) -> float:
    """Return requests/s of `CLIENTS` clients that each keep one connection busy."""
    address = urlsplit(url)
    queue: Iterator[bytes] = itertools.cycle(files)
    deadline = time.perf_counter() + SECONDS
    counts = [0] * CLIENTS

    def client(number: int) -> None:
        connection = HTTPConnection(address.hostname or "", address.port)
        while time.perf_counter() < deadline:
            connection.request("POST", "/v1/models/bench/predict", body=next(queue))
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            counts[number] += 1
        connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def compare(source: Path, folder: Path) -> None:
    uri = str(folder / "store")
    train(source, uri)
    store = Store.open(uri)
    version = get_model(store, "bench")
    predictor = Predictor.load(store, version)
    files = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))[:IMAGES]]

    def fastest(batches: Iterable[int]) -> tuple[int, int]:
        return max(
            itertools.product(batches, THREADS),
            key=lambda setting: bare_rate(predictor, files, *setting),
        )

    one, many = fastest([1]), fastest(BATCHES)
    served, alone, batched = [], [], []
    with ray_session(), serve_model(store, version, port=0, capacity=Capacity(CORES)) as url:
        http_rate(url, files)  # warm up
        for _ in range(ROUNDS):
            served.append(http_rate(url, files))
            alone.append(bare_rate(predictor, files, *one))
            batched.append(bare_rate(predictor, files, *many))
    ours = statistics.median(served)
    report("serving, bare model at batch 1", ours, statistics.median(alone), "images/s")
    report(
        f"serving, bare model at batch {many[0]}, its best",
        ours,
        statistics.median(batched),
        "images/s",
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        root = Path(temporary)
        compare(ANTS_BEES if ANTS_BEES.exists() else generated_images(root / "images"), root)
