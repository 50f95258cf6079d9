"""What `graft sweep --plan` says of caching on S3, against doing it: bytes, requests, seconds.

20,000 JPEGs of 500 x 375 are imported into a real S3 server on this machine. The plan of two freeze
depths is made as the command makes it; then the sweep's activations are computed and written by
what a sweep calls, with a node-local cache that is empty, and every request is counted.

Then a tenth is added, as every month: what that writes and computes; the earlier version is
removed, and the new one is trained on, by `graft train`, of which nothing is computed.

    bench_forecast.py --images 2000       fewer
    bench_forecast.py --arch resnet18
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import boto3
from photographs import photographs
from processes import end_on_sigterm
from rich.console import Console
from rich.table import Table

from conftest import run_minio
from graft.backbones.process_setup import set_up_process
from graft.cpus import available_cpus
from graft.data.import_draft import Imported
from graft.data.importing import import_dataset
from graft.data.removing import remove_version
from graft.spec import Sweep, dump_job
from graft.store import Store
from graft.sweep.cache_shared_trunks import cache_shared_trunks, fill_here
from graft.sweep.prepare_sweep import prepare_sweep
from graft.sweep.sweep_plan import SweepPlan
from graft.sweep.sweep_records import create_sweep
from graft.sweep.trial_recorder import TrialRecorder
from report import record
from s3_requests import charged, counted

GRAFT = Path(sys.executable).with_name("graft")
DEPTHS = ("all", -6)
"""Frozen stages: all, and all but so many."""


def sweep_of(arch: str) -> Sweep:
    """Return a sweep whose trials read activations at two depths."""
    return Sweep.model_validate(
        {
            "kind": "sweep",
            "name": "forecast",
            "base": {
                "kind": "finetune",
                "name": "base",
                "dataset": {"name": "bench"},
                "backbone": {"arch": arch, "weights": "none", "freeze": "all"},
                "augment": {"kind": "standard", "views": 2},
                "train": {"epochs": 5, "optimizer": {"kind": "sgd", "lr": 0.01}},
                "cache": "on",
            },
            "space": {"backbone.freeze": {"choice": list(DEPTHS)}},
            "search": {"kind": "grid"},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="%(default)s")
    parser.add_argument("--arch", default="mobilenet_v3_small", help="%(default)s")
    chosen = parser.parse_args()
    end_on_sigterm()
    set_up_process(available_cpus())
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        os.environ["GRAFT_CACHE"] = f"{folder}/cache"
        with run_minio(Path(folder, "minio")) as server:
            os.environ.update(server.environment)
            boto3.session.Session().client("s3").create_bucket(Bucket="bench")
            compare(chosen.images, chosen.arch, Path(folder))


def compare(images: int, arch: str, folder: Path) -> None:
    """Import, plan and compute; say how far the plan was off."""
    store = Store.open("s3://bench/store")
    source = photographs(folder / "photos", images * 9 // 20, images // 20)
    began = time.perf_counter()
    dataset = import_dataset(store, str(source), "bench", test_fraction=0)
    print(f"{images:,} imported in {time.perf_counter() - began:.0f} s")
    sweep, plan = prepare_sweep(store, sweep_of(arch))
    os.environ["GRAFT_CACHE"] = str(folder / "another cache")  # the plan has read images
    fresh = Store.open(store.uri)
    with counted(fresh) as requests:
        cached = cache(fresh, sweep, plan)
    sent = charged(requests)
    table = Table("", "forecast", "measured", "forecast / measured")
    for name, forecast, measured in (
        ("bytes", plan.bytes, cached.size),
        ("requests that write", plan.requests.writes, sent.writes),
        ("requests that read", plan.requests.reads, sent.reads),
        ("seconds", sum(trunk.seconds for trunk in plan.trunks), cached.seconds),
    ):
        table.add_row(name, f"{forecast:,.0f}", f"{measured:,.0f}", f"{forecast / measured:.2f}")
        record(f"forecast of caching {images:,} images, {arch}", forecast, measured, name)
    Console().print(table)
    print(dict(requests), plan.throughput, cached, sep="\n")
    add(store, dataset, images // 10, cached, arch, folder)


@dataclass(frozen=True)
class Cached:
    """What caching a sweep's activations took."""

    images: int
    """Views of images that went through the trunk."""
    size: int
    """Bytes that were written below ``activations/``."""
    seconds: float


def cache(store: Store, sweep: Sweep, plan: SweepPlan) -> Cached:
    """Compute and write what the trials of a sweep read."""
    made = create_sweep(store, sweep, plan)
    recorder = TrialRecorder(store, made, sweep, lambda event: None, lambda: None)
    before, began = stored(store, "activations/"), time.perf_counter()
    cache_shared_trunks(store, plan.trials, fill_here(recorder), recorder)
    seconds = time.perf_counter() - began
    return Cached(recorder.trunk_images, stored(store, "activations/") - before, seconds)


def stored(store: Store, prefix: str) -> int:
    """Return the bytes of all objects below a prefix."""
    return sum(size for _, size in store.scan(prefix))


def add(
    store: Store, parent: Imported, images: int, first: Cached, arch: str, folder: Path
) -> None:
    """Add images, compute theirs, remove the parent and train on the child; say what it takes."""
    source = photographs(folder / "more", images * 9 // 20, images // 20, seed=1)
    before, began = stored(store, "datasets/"), time.perf_counter()
    child = import_dataset(store, str(source), "bench", add_to=parent.manifest.version)
    seconds, written = time.perf_counter() - began, stored(store, "datasets/") - before
    share = written / before
    print(f"{images:,} added in {seconds:.1f} s, {written:,} bytes, {share:.3f} of what was there")
    sweep, plan = prepare_sweep(store, sweep_of(arch))
    added = cache(store, sweep, plan)
    print(f"{added}: {added.size / first.size:.3f} of the first time's bytes")
    remove_version(store, "bench", parent.manifest.version)
    before = stored(store, "activations/")
    spec = folder / "train.yaml"
    spec.write_text(dump_job(sweep.base.model_copy(update={"name": "child"})))
    subprocess.run([GRAFT, "train", spec, "--store", store.uri], check=True)
    computed = stored(store, "activations/") - before
    print(f"trained on {child.manifest.ref} without its parent; {computed} bytes were computed")


if __name__ == "__main__":
    main()
