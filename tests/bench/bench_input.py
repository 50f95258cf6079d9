"""Training input alone: images/s a core of Graft against ImageFolder, WebDataset and LitData.

The same JPEGs, read, decoded, cropped at random, flipped, normalised and batched; no network. From
disk, an epoch after the first (the files are in memory); from S3 (MinIO on this machine), the first
epoch with nothing cached on the node. The rivals are tuned: each runs with several numbers of
worker processes, normalising in them or in batches, and the fastest counts. Graft runs as it comes,
and keeps no image decoded. With the settings chosen, all sides run in turns, and the median of each
counts. They have the same torch and Pillow; LitData and WebDataset are installed beside them, in an
environment of their own.

    bench_input.py               2,000 images
    bench_input.py 400           so many
    bench_input.py --threads     Graft with 1, 2 and 3 threads, and with as many processes
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from photographs import photographs
from rich import box
from rich.console import Console
from rich.table import Table
from servers import RIVALS, CannotServeError, environment
from tuning import Axis, Setting, fastest

from conftest import MINIO, run_minio
from graft.backbones.process_setup import set_up_process
from graft.cpus import available_cpus
from graft.data.epoch_order import FULL, BlockShuffle, EpochOrder
from graft.data.importing import import_dataset
from graft.data.loader import ImageLoader, to_tensor
from graft.data.manifest import open_dataset
from graft.data.packing import ShardPlan
from graft.spec import Loader, Preprocess, StandardAugment
from graft.store import Store
from report import record

Side = Callable[[], float]
"""Runs a side, and returns its images/s."""
IMAGES = 2000
ROUNDS = 3
BATCH = 32
CORES = available_cpus()
WORKERS: Axis = tuple({"workers": n} for n in (CORES, CORES + 1))
FLOATS: Axis = ({"floats": "batch"}, {"floats": "worker"})
SHARD_BYTES = 8 << 20
"""Small, as the rivals' are, so that there are several of so few images."""
TINY_GB = "0.012"
"""Of a node's cache that has room for one shard."""


def ours(options: Mapping[str, Any]) -> None:
    """Go through epochs of a dataset, and print images and seconds of each."""
    set_up_process(CORES)
    dataset = open_dataset(Store.open(options["store"]), "bench")
    preprocess, augment = Preprocess(), StandardAugment()
    settings = Loader(decoded_cache_mb=0, threads=options.get("threads", "auto"))
    loader = ImageLoader(dataset, preprocess, augment, settings)
    images = dataset.images("train")
    shuffle = FULL if dataset.fits_node else BlockShuffle()
    order = EpochOrder(images, shuffle, seed=0)
    epochs = []
    for epoch in range(options["epochs"]):
        began, done = time.perf_counter(), 0
        slices = order.slices(epoch, BATCH, options.get("rank", 0), options.get("processes", 1))
        for batch in loader.batches(images, slices, 1 + epoch):
            done += len(to_tensor(batch.images, preprocess))
        epochs.append((done, time.perf_counter() - began))
    print(json.dumps(epochs), flush=True)


def run(command: list[str | Path], options: Mapping[str, Any], env: Mapping[str, str]) -> float:
    """Run a side; return the images/s of its last epoch."""
    done = subprocess.run(
        [*command, json.dumps(options)],
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CannotServeError(done.stderr.strip().splitlines()[-1])
    images, seconds = json.loads(done.stdout.strip().splitlines()[-1])[-1]
    rate: float = images / seconds
    return rate


class Bench:
    """The images in each side's form, on disk and in a bucket."""

    def __init__(self, folder: Path, images: int):
        self.folder, self.images = folder, images
        source = photographs(folder / "jpegs", train=images // 2)
        self.jpegs = source / "train"
        ShardPlan.__init__.__defaults__ = (0, SHARD_BYTES)
        import_dataset(Store.open(str(folder / "store")), str(source), "bench", test_fraction=0)
        self.rivals = environment("input")
        # The rivals' own environment comes first, then the packages that all sides share.
        shared = sysconfig.get_path("purelib")
        self.env = {"PYTHONPATH": shared, "PYTHONWARNINGS": "ignore"}
        for kind in ("webdataset", "litdata"):
            out = folder / kind
            out.mkdir()
            options = {"make": kind, "images": str(self.jpegs), "out": str(out)}
            command = [self.rivals, RIVALS / "training_input.py", json.dumps(options)]
            subprocess.run(command, env=os.environ | self.env, check=True, capture_output=True)
        self._caches = 0

    def rival(self, options: Mapping[str, Any]) -> Side:
        """Return a rival with its fastest setting."""

        def rate(setting: Setting) -> float:
            both = {**options, **setting}
            if "cache" in both:
                both["cache"] = self.fresh_cache()
            return run([self.rivals, RIVALS / "training_input.py"], both, self.env)

        return partial(rate, fastest([WORKERS, FLOATS], rate))

    def graft(self, options: Mapping[str, Any], **env: str) -> float:
        """Run Graft; where it reads from S3, nothing is in the node's cache."""
        return run(
            [sys.executable, __file__, "--ours"],
            options,
            {"GRAFT_CACHE": self.fresh_cache(), **env},
        )

    def fresh_cache(self) -> str:
        self._caches += 1
        path = self.folder / f"cache-{self._caches}"
        path.mkdir()
        return str(path)

    def tars(self) -> list[Path]:
        return sorted((self.folder / "webdataset").glob("*.tar"))

    def from_disk(self) -> dict[str, Side]:
        """Return each side."""
        rivals: dict[str, Mapping[str, Any]] = {
            "ImageFolder": {"kind": "imagefolder", "images": str(self.jpegs)},
            "WebDataset": {"kind": "webdataset", "urls": [str(path) for path in self.tars()]},
            "LitData": {"kind": "litdata", "source": str(self.folder / "litdata")},
        }
        options = {"store": str(self.folder / "store"), "epochs": 2}
        sides: dict[str, Side] = {"Graft": partial(self.graft, options)}
        return sides | {name: self.rival({**r, "epochs": 2}) for name, r in rivals.items()}

    def from_s3(self, environment: Mapping[str, str]) -> dict[str, Side]:
        """Return each side; `environment` names the server."""
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket="bench")
        for kind in ("store", "webdataset", "litdata"):
            for path in (self.folder / kind).rglob("*"):
                if path.is_file():
                    key = path.relative_to(self.folder).as_posix()
                    client.upload_file(str(path), "bench", key)

        def url(path: Path) -> str:
            key = path.relative_to(self.folder).as_posix()
            params = {"Bucket": "bench", "Key": key}
            signed: str = client.generate_presigned_url("get_object", params, 7200)
            return signed

        epoch = {"store": "s3://bench/store", "epochs": 1}
        storage = {
            "endpoint_url": environment["AWS_ENDPOINT_URL"],
            "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
            "region_name": environment["AWS_REGION"],
        }
        urls = {"kind": "webdataset", "urls": [url(path) for path in self.tars()]}
        lit = {"kind": "litdata", "source": "s3://bench/litdata", "storage": storage}
        return {
            "Graft": partial(self.graft, epoch, **environment),
            "Graft, streamed": partial(self.graft, epoch, **environment, GRAFT_CACHE_GB=TINY_GB),
            "WebDataset": self.rival({**urls, "epochs": 1}),
            "LitData": self.rival({**lit, "epochs": 1, "cache": ""}),
        }


def threads_and_processes(bench: Bench) -> Iterator[tuple[str, float]]:
    """Yield images/s of Graft with so many threads in one process, and so many processes."""
    epoch = {"store": str(bench.folder / "store"), "epochs": 2}
    for count in (1, 2, 3):
        yield f"{count} threads", bench.graft({**epoch, "threads": count})
    for count in (1, 2, 3):
        parts = [{**epoch, "threads": 1, "rank": rank, "processes": count} for rank in range(count)]
        commands = [[sys.executable, __file__, "--ours", json.dumps(part)] for part in parts]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
        outs = [process.communicate()[0].decode() for process in started]
        epochs = [json.loads(out.strip().splitlines()[-1])[-1] for out in outs]
        yield f"{count} processes", sum(n for n, _ in epochs) / max(s for _, s in epochs)


@contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str] | None]:
    """Start MinIO, and yield the variables that name it; None where there is no MinIO."""
    if not MINIO.exists():
        print("skips S3: there is no MinIO here, which `make programs` builds")
        yield None
        return
    with run_minio(folder) as server:
        yield server.environment


def show(where: str, sides: Mapping[str, Side]) -> None:
    """Measure the sides in turns, print a line for each, and record Graft's ratio to the others."""
    measured = [{name: side() for name, side in sides.items()} for _ in range(ROUNDS)]
    rates = {name: statistics.median(rate[name] for rate in measured) for name in sides}
    table = Table(where, "images/s a core", "Graft is", box=box.SIMPLE)
    mine = rates["Graft"]
    for name, rate in rates.items():
        ratio = ""
        if not name.startswith("Graft"):
            ratio = (
                f"{record(f'input {where}, {name}', mine / CORES, rate / CORES, 'images/s'):.2f}"
            )
        table.add_row(name, f"{rate / CORES:,.0f}", f"{ratio} times as fast" if ratio else "")
    Console(width=80).print(table)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="?", type=int, default=IMAGES)
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--ours", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.ours:
        ours(chosen.ours)
        return
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        bench = Bench(Path(temporary), chosen.images)
        if chosen.threads:
            for name, rate in threads_and_processes(bench):
                print(f"{name}: {rate:,.0f} images/s")
            return
        show("from disk", bench.from_disk())
        with s3_server(Path(temporary, "minio")) as environment:
            if environment:
                show("from S3", bench.from_s3(environment))


if __name__ == "__main__":
    main(sys.argv[1:])
