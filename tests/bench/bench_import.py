"""Import: images/s of Graft's against a plain PIL loop, its earlier self and LitData.

First `graft data import` on this machine's files. The loop opens, turns upright, converts to RGB,
shrinks to the same largest side and saves as JPEG, one image after another; Graft also hashes,
splits, writes shards and commits a dataset version. Both run in turns; their medians are compared.

Then JPEGs of 500 x 375 from a real S3 server to the same one, each way in a process of its own:
Graft's job on Ray of 1, 2 and 4 CPUs, Graft on this machine, the loop, and LitData's `optimize`, in
an environment of its own, on all cores. The fastest of the others is the baseline. Memory is of all
processes of a way, Ray's too, what they share counted once; the time is without their start.

    bench_import.py --images 2000                  fewer than 20,000 of them
    bench_import.py --platform FOLDER              an earlier release's `platform`, measured too
    bench_import.py --max-side 300                 every image is shrunk, and encoded anew
    bench_import.py --only s3                      leave the first half out
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import boto3
import numpy as np
from photographs import photographs
from PIL import Image, ImageOps
from processes import Started, end_on_sigterm, total
from rich.console import Console
from rich.table import Table
from servers import RIVALS, CannotServeError, environment

from conftest import run_minio
from graft.cpus import available_cpus
from graft.data.image import MAX_SIDE
from graft.data.importing import import_dataset
from graft.store import Store
from report import record, report

ANTS_BEES = Path(__file__).parents[2] / ".." / "shared" / "data" / "ants-bees"
PLATFORM = Path(__file__).parents[2] / "platform"
REPEATS = 5
CAMERA_IMAGES = 60
WORKERS = (1, 2, 4)
PART_FILES = 256
"""Of the job, so that every worker has several."""
EVERY_S = 1.0


def plain_loop(source: Path, target: Path) -> int:
    """Prepare the images as a short script would; return how many there were."""
    paths = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in paths:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
        if max(image.size) > MAX_SIDE:
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR)
        out = target / path.relative_to(source).with_suffix(".jpg")
        out.parent.mkdir(parents=True, exist_ok=True)
        image.save(out, quality=95)
    return len(paths)


def graft_import(source: Path, target: Path) -> int:
    return import_dataset(
        Store.open(str(target)), str(source), "bench", test_fraction=0
    ).manifest.images


def compare(bench: str, source: Path, folder: Path) -> None:
    ways: dict[str, Callable[[Path, Path], int]] = {"ours": graft_import, "baseline": plain_loop}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            target = folder / name
            started = time.perf_counter()
            images = way(source, target)
            rates[name].append(images / (time.perf_counter() - started))
            shutil.rmtree(target)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    report(bench, medians["ours"], medians["baseline"], "images/s")


def camera_images(folder: Path) -> Path:
    """Write JPEGs of 2000 by 1500 pixels with the detail and size of a camera's."""
    rng = np.random.default_rng(0)
    for i in range(CAMERA_IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((2000, 1500), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        image = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
        path = folder / f"class-{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
    return folder


@dataclass(frozen=True)
class Way:
    """A way to import what lies in S3."""

    name: str
    command: tuple[str | Path, ...]
    """A Python, and a script of `RIVALS`."""
    platform: Path | None = None
    """Graft's; None: it is none of Graft's."""
    workers: int = 0


@dataclass(frozen=True)
class Measured:
    """What an import took."""

    images_per_second: float
    mib: float
    """The most memory of all processes, at once."""
    version: str | None


def ways(other: Path | None) -> Iterator[Way]:
    """Yield Graft's ways, and then the others'."""
    for workers in WORKERS:
        script = RIVALS / "import_graft_ray.py"
        yield Way(f"Graft, job, {workers} Ray CPUs", (sys.executable, script), PLATFORM, workers)
    local = (sys.executable, RIVALS / "import_graft.py")
    yield Way("Graft, this machine", local, PLATFORM)
    if other:
        yield Way("the other Graft", local, other.resolve())
    yield Way("PIL loop", (sys.executable, RIVALS / "import_pil.py"))
    with contextlib.suppress(CannotServeError):
        python = environment("litdata", beside=True)
        yield Way("LitData optimize", (python, RIVALS / "import_litdata.py"))


def measure(way: Way, uri: str, options: dict[str, object], folder: Path) -> Measured:
    """Import by one way; say and return what that takes."""
    store = f"{uri}/{way.name.lower().replace(' ', '-').replace(',', '')}"
    task = options | {"store": store, "workers": way.workers}
    log, most = folder / "log", 0
    log.unlink(missing_ok=True)
    env = {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(way.platform)} if way.platform else {})
    with Started([*way.command, json.dumps(task)], log, env) as started:
        while started.lives:
            most = max(most, total(started.memory()).pss)
            time.sleep(EVERY_S)
    lines = log.read_text(errors="replace").splitlines()
    said = [json.loads(line) for line in lines if line.startswith('{"images"')]
    if not said or said[0]["images"] != options["images"]:
        raise SystemExit(f"{way.name}: {started.said}")
    rate = said[0]["images"] / said[0]["seconds"]
    measured = Measured(rate, most / 2**20, said[0].get("version"))
    print(f"{way.name}: {measured}", flush=True)
    return measured


def from_s3(images: int, max_side: int, other: Path | None, folder: Path) -> None:
    """Compare all ways on the same photographs in S3."""
    with run_minio(folder / "minio") as server:
        os.environ.update(server.environment)
        uri = "s3://bench"
        _put(photographs(folder / "photos", images * 9 // 20, images // 20), uri)
        options = {
            "source": f"{uri}/photos",
            "images": images,
            "max_side": max_side,
            "part_files": min(PART_FILES, images // 8),
            "cores": available_cpus(),
        }
        measured = {way: measure(way, uri, options, folder) for way in ways(other)}
    versions = {one.version for way, one in measured.items() if way.platform}
    if len(versions) != 1:
        raise SystemExit(f"the versions differ: {versions}")
    ours = max((way for way in measured if way.platform == PLATFORM), key=_rate(measured))
    baseline = max((way for way in measured if way.platform != PLATFORM), key=_rate(measured))
    table = Table("way", "images/s", "MiB at most", f"times {baseline.name}")
    fastest = measured[baseline].images_per_second
    for way, one in measured.items():
        rate = one.images_per_second
        table.add_row(way.name, f"{rate:,.0f}", f"{one.mib:,.0f}", f"{rate / fastest:.2f}")
    Console().print(table)
    print(f"all Graft ones have made bench@{versions.pop()}")
    name = f"import from S3, {images:,} JPEGs to {max_side}, {ours.name} against {baseline.name}"
    record(name, measured[ours].images_per_second, fastest, "images/s")


def _rate(measured: dict[Way, Measured]) -> Callable[[Way], float]:
    return lambda way: measured[way].images_per_second


def _put(root: Path, uri: str) -> None:
    """Put photographs into a bucket, by class alone: a split of their own is another setting."""
    bucket = uri.removeprefix("s3://")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)

    def put(path: Path) -> None:
        split, label, name = path.relative_to(root).parts
        s3.upload_file(str(path), bucket, f"photos/{label}/{split}-{name}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, sorted(root.rglob("*.jpg"))))
    shutil.rmtree(root)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="in S3: %(default)s")
    parser.add_argument("--max-side", type=int, default=MAX_SIDE, help="of those: %(default)s")
    parser.add_argument("--platform", type=Path, help="an earlier release's, measured too")
    parser.add_argument("--only", choices=("files", "s3"), help="one half")
    chosen = parser.parse_args(words)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        root = Path(temporary)
        if chosen.only != "s3":
            compare("import, 2000x1500 JPEGs", camera_images(root / "camera"), root)
            if ANTS_BEES.exists():
                compare("import, ants-bees", ANTS_BEES, root)
            else:
                print("../shared/data/ants-bees is not here: its part is left out")
        if chosen.only != "files":
            from_s3(chosen.images, chosen.max_side, chosen.platform, root)


if __name__ == "__main__":
    main(sys.argv[1:])
