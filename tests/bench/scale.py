"""Datasets of millions of images, without images: what opening and planning take, and how it grows.

An index with so many rows is made, a manifest and an index of activations; each path that is not
pixels then runs in a process of its own, which says its seconds and its private memory (USS).

    scale.py                       1 million images, then 10 million
    scale.py 100000                so many
    scale.py --platform FOLDER     another release's `platform`, on the same images as Parquet
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from graft.activations.division import TASK_IMAGES
from graft.activations.key import Key
from graft.activations.rows import Rows, ShardRows
from graft.data.digests import DTYPE, Digests, hexadecimal
from graft.data.index import INDEX, PARQUET_INDEX
from graft.store import Store

SIZES = (1_000_000, 10_000_000)
CLASSES = 1000
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
SHARD_IMAGES = 500
IMAGE_BYTES = 120_000
LATER = ("release", "distinct", "notes")
"""Of a manifest, what the first format did not have."""
PLATFORM = Path(__file__).parents[2] / "platform"
MEASURED = """
import sys, time
from graft.store import Store
from graft.data.manifest import open_dataset
try:
    from graft.data.epoch_order import FULL, EpochOrder
    def training_slices(images, batch, seed, epoch, rank, workers):
        return EpochOrder(images, FULL, seed).slices(epoch, batch, rank, workers)
except ImportError:
    from graft.data import loader
    slices_of = getattr(loader, "training_slices", None) or loader.training_shares
    def training_slices(images, *rest):
        return slices_of(len(images), *rest)
def uss():
    lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
    sizes = {{line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Anonymous"]
store = Store.open({uri!r})
{prepare}
before = uss()
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
after = uss()
print("measured", seconds, after[0] - before[0], after[1] - before[1])
"""
OPEN = "dataset = open_dataset(store, 'big', {version!r})"
PLAN = """
try:
    from graft.sweep.prepare_sweep import prepare_sweep
    from graft.sweep.sweep_plan import TWO_CORES
except ImportError:
    from graft.sweep.resolve import prepare_sweep
    from graft.sweep.plan import TWO_CORES
from graft.spec import Sweep
base = {{
    "kind": "finetune",
    "name": "base",
    "dataset": {{"name": "big", "version": {version!r}}},
    "backbone": {{"arch": "squeezenet1_1", "weights": "none", "freeze": "all"}},
    "train": {{"epochs": 5, "optimizer": {{"kind": "sgd", "lr": 0.01}}}},
}}
space = {{
    "backbone.freeze": {{"choice": ["all", -1, -2]}},
    "train.optimizer.lr": {{"choice": [0.01, 0.1]}},
}}
sweep = Sweep.model_validate(
    {{"kind": "sweep", "name": "s", "base": base, "space": space, "search": {{"kind": "grid"}}}}
)
"""
RUN = "done = CliRunner().invoke(app, {} + ['--store', store.uri{}])\n"
PATHS: dict[str, tuple[str, str]] = {
    "open, and count a split": ("", OPEN + "; len(dataset.images('train'))"),
    "labels of the training images": (
        OPEN + "; images = dataset.images('train')",
        "labels = getattr(images, 'labels', None)\n"
        "labels = [image.label for image in images] if labels is None else labels",
    ),
    "an epoch's order, 1 of 8 workers": (
        OPEN + "; images = dataset.images('train')",
        "slices = training_slices(images, 256, 0, 1, 0, 8)",
    ),
    "an epoch's order by blocks, 1 of 8 workers": (
        "from graft.data.epoch_order import BlockShuffle, EpochOrder\n"
        + OPEN
        + "; images = dataset.images('train')",
        "slices = EpochOrder(images, BlockShuffle(), 0).slices(1, 256, 0, 8)",
    ),
    "rows of the first batch": (
        OPEN + "; images = dataset.images('train')\n"
        "slices = training_slices(images, 256, 0, 1, 0, 8)",
        "batch = [images[int(i)] for i in slices[0].indices]",
    ),
    "a tenth of the labels, and a holdout": (
        "from graft.data.subset import choose_subset\nfrom graft.spec import Dataset\n"
        + OPEN
        + "; dataset.images('train')",
        "subset = choose_subset(dataset, Dataset(name='big', labels=0.1, holdout=0.2))",
    ),
    "plan of a sweep of six trials": (PLAN, "prepare_sweep(store, sweep, TWO_CORES)"),
    "join with activations": (
        "from graft.activations.cache import Activations\n"
        "from graft.activations import index\n"
        "from graft.activations.key import Key\n"
        + OPEN
        + "; images = dataset.images('train')\nkey = Key(**{key!r})",
        "if hasattr(index, 'open_index'):\n"
        "    indexed = index.open_index(store, {marker!r})\n"
        "    activations = Activations(store, key, indexed, images)\n"
        "    assert (indexed.rows.find(images[:256].digests) >= 0).all()\n"
        "else:\n"
        "    parts = index.read_index(store, {marker!r}).parts\n"
        "    activations = Activations(store, key, parts, [i.sha256 for i in images])",
    ),
}
for words in ("data ls", "data show big@{version}", "activations ls"):
    PATHS[f"graft {' '.join(words.split()[:2])}"] = (
        "from typer.testing import CliRunner\nfrom graft.cli.main import app\n"
        + RUN.format(words.split(), " + '-of-none'"),  # what it imports is there from then on
        RUN.format(words.split(), "") + "assert done.exit_code == 0, done.output",
    )
TRUNK = "ab" * 32
KEY = {"trunk": TRUNK, "view": "v0", "dtype": "float16", "backend": "torch2.15-pillow13.0-cpu"}


def digests(count: int, draw: np.random.Generator) -> np.ndarray:
    """Return random digests: (count, 32) uint8."""
    return draw.integers(0, 256, (count, 32), np.uint8)


def write_indexes(folder: Path, images: int) -> tuple[Path, Path, Digests]:
    """Write an index as Arrow and as Parquet; return the files, and the training digests."""
    draw = np.random.default_rng(0)
    counts = [round(images * share) for share in SHARES.values()]
    split = np.repeat(np.arange(3, dtype=np.int8), counts)
    label = np.concatenate([np.sort(draw.integers(0, CLASSES, n, np.int32)) for n in counts])
    keys = digests(images, draw)
    order = np.lexsort((keys[:, 0], label, split))  # as an import sorts, but for later digits
    keys = np.ascontiguousarray(keys[order])
    numbers = np.arange(images)
    columns = {
        "path": pa.array([f"train/class-{c:04}/n{i:08}.jpg" for i, c in enumerate(label)]),
        "label": label,
        "shard": (numbers // SHARD_IMAGES).astype(np.int32),
        "offset": numbers % SHARD_IMAGES * IMAGE_BYTES,
        "size": np.full(images, IMAGE_BYTES, np.int64),
        "width": np.full(images, 500, np.int32),
        "height": np.full(images, 375, np.int32),
    }
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), images, [None, pa.py_buffer(keys)])
    arrow = pa.table(columns | {"sha256": binary, "split": split}).select(INDEX.names).cast(INDEX)
    names = pa.array(list(SHARES)).take(pa.array(split.astype(np.int32)))
    parquet = pa.table(columns | {"sha256": pa.array(hexadecimal(keys)), "split": names})
    pq.write_table(
        parquet.select(PARQUET_INDEX.names).cast(PARQUET_INDEX), folder / "index.parquet"
    )
    with pa.OSFile(str(folder / "index.arrow"), "wb") as file, pa.ipc.new_file(file, INDEX) as out:
        out.write_table(arrow.combine_chunks(), max_chunksize=images)
    train = np.frombuffer(keys[: counts[0]].tobytes(), DTYPE)
    return folder / "index.arrow", folder / "index.parquet", train


def build(folder: Path, images: int) -> str:
    """Make a store with two versions of one dataset, and activations; return its URI."""
    from graft.store import Store

    store = Store.open(str(folder / "store"))
    *indexes, train = write_indexes(folder, images)
    shard = {"size": SHARD_IMAGES * IMAGE_BYTES, "sha256": "0" * 64}
    shards = [{"name": f"shard-{n:05}.tar", **shard} for n in range(-(-images // SHARD_IMAGES))]
    counts = {split: round(images * share) for split, share in SHARES.items()}
    names = [f"class-{number:04}" for number in range(CLASSES)]
    for version, index in zip(("arrow", "parquet"), indexes, strict=True):
        ref = store.put(f"datasets/big/{version}", index.name, index)
        manifest = {
            "format": 3,
            "release": "0.1.0",
            "name": "big",
            "version": version,
            "digest": "0" * 64,
            "classes": names,
            "settings": {"max_side": 512, "made": None, "skip_bad": False},
            "counts": {split: dict.fromkeys(names, 1) for split in SHARES},
            "images": images,
            "distinct": counts,
            "bytes": images * IMAGE_BYTES,
            **{side: {"min": 1, "median": 1, "max": 1} for side in ("width", "height")},
            **{nothing: [] for nothing in ("skipped", "leakage", "conflicts", "notes")},
            "source": "made up",
            "index": ref.model_dump(),
            "shards": shards,
            "originals": shard | {"name": "originals.tar"},
            "created": datetime.now(UTC).isoformat(),
        }
        if version == "parquet":  # as releases before columns wrote it
            manifest = {key: manifest[key] for key in manifest if key not in LATER}
            manifest |= {"format": 1}
        store.create(f"datasets/big/{version}/manifest.json", json.dumps(manifest).encode())
        index.unlink()
    write_activations(store, train)
    return store.uri


def write_activations(store: Store, train: Digests) -> None:
    """Write indexes of activations of the training images: this release's, and the older one."""
    key = Key(**KEY)
    shard = {"size": 1, "sha256": "0" * 64}
    parts, shards = [], []
    for number, first in enumerate(range(0, len(train), TASK_IMAGES)):
        rows = train[first : first + TASK_IMAGES]
        shards.append(ShardRows.all_of(rows))
        part = {"shard": {"name": f"part-{number}.safetensors"} | shard, "rows": len(rows)}
        parts.append(part | {"shape": [512], "order": [0], "batch_size": 32, "threads": 1})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "rows.arrow")
        Rows.of(shards).write(path)
        ref = store.put(key.folder, path.name, path)
    index = {"dataset": "big@arrow", "split": "train", "images": len(train)}
    document = index | {"parts": parts, "rows": ref.model_dump()}
    store.create(f"{key.folder}/index/arrow-train.json", json.dumps(document).encode())
    for part, rows in zip(parts, shards, strict=True):
        del part["rows"]
        part["images"] = hexadecimal(rows.digests)
    text = json.dumps(index | {"parts": parts}, separators=(",", ":"))
    store.create(f"{key.folder}/index/parquet-train.json", text.encode())


def measure(code: str, platform: Path) -> tuple[float, float, float]:
    """Run a path in a process of its own; return seconds, bytes of private memory, and of heap."""
    environment = os.environ | {"PYTHONPATH": str(platform)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    _, seconds, private, heap = done.stdout.split()
    return float(seconds), float(private), float(heap)


def rows(uri: str, version: str, platform: Path) -> Iterator[tuple[str, str, str, str]]:
    marker = f"activations/{TRUNK}/v0-float16-{KEY['backend']}/index/{version}-train.json"
    values = {"uri": uri, "version": version, "key": KEY, "marker": marker}
    for name, (prepare, code) in PATHS.items():
        prepare, code = prepare.format(**values), code.format(**values)
        try:
            seconds, private, heap = measure(
                MEASURED.format(uri=uri, prepare=prepare, code=code), platform
            )
        except RuntimeError as error:
            why = "has none" if "ModuleNotFoundError" in str(error) else "failed"
            print(str(error).strip().splitlines()[-1])
            yield name, why, "", ""
            continue
        yield name, f"{seconds:.3f} s", f"{private / 1e6:,.0f} MB", f"{heap / 1e6:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", type=int, default=SIZES)
    parser.add_argument("--platform", type=Path, help="another release's, which is measured too")
    chosen = parser.parse_args()
    for images in chosen.images or SIZES:
        with tempfile.TemporaryDirectory(prefix="graft-scale-") as folder:
            uri = build(Path(folder), images)
            sizes = {path.suffix: path.stat().st_size for path in Path(folder).rglob("index-*")}
            print(
                f"{images:,} images; "
                + ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in sizes.items())
            )
            measured = [("this release", "arrow", PLATFORM)]
            if chosen.platform:
                measured.insert(0, ("the other one", "parquet", chosen.platform))
            for name, version, platform in measured:
                table = Table("path", "time", "private", "of it heap", title=name, box=box.SIMPLE)
                for row in rows(uri, version, platform):
                    table.add_row(*row)
                Console(width=80).print(table)


if __name__ == "__main__":
    main()
