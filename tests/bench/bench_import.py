"""Import: images/s of `graft data import` against a plain PIL loop over the same files.

The loop opens, turns upright, converts to RGB, shrinks to the same largest side and
saves as JPEG, one image after another; Graft also hashes, splits, writes shards and
commits a dataset version. Both run in turns, and the medians are compared.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from graft.data.image import MAX_SIDE
from graft.data.importing import import_dataset
from graft.store import Store
from report import report

ANTS_BEES = Path(__file__).parents[2] / ".." / "shared" / "data" / "ants-bees"
REPEATS = 5
CAMERA_IMAGES = 60


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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        root = Path(temporary)
        compare("import, 2000x1500 JPEGs", camera_images(root / "camera"), root)
        if ANTS_BEES.exists():
            compare("import, ants-bees", ANTS_BEES, root)
        else:
            print("../shared/data/ants-bees is not here: its part is left out")
