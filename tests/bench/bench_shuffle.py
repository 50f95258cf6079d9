"""What shuffling blocks costs in accuracy, against a full shuffle, on sets sorted by class.

Nearly every block holds images of one class. `blocks` has 24 readers at batches of 16, as the
product has 48 at batches of 32, and mixes 2 blocks each; `few readers` has 6, so that some classes
are out of reach at any time. Each order trains with the same seeds by the product's own loop: a
head on the activations of SqueezeNet 1.1 (ImageNet's weights) of ants-bees, and all of a small
network with BatchNorm on handwritten digits, from nothing. Shards read in order stand beside them.

    bench_shuffle.py             5 seeds
    bench_shuffle.py --quick     2, to try the bench itself
"""

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from graft.activations.cache import ActivationCache
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import fill, run_here
from graft.activations.key import CacheEntry, key_scheme
from graft.activations.lease import LeaseTerms
from graft.activations.lookup import OpenActivations
from graft.backbones.process_setup import set_up_process
from graft.backbones.trunk import trunk_chain
from graft.data.epoch_order import FULL, BlockShuffle, Shuffle
from graft.data.importing import import_dataset
from graft.data.loader import BatchSlice
from graft.data.read_ahead import block_numbers
from graft.demo.images import write_digits
from graft.spec import Train, parse_job
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.loop import EpochDone, TrainingData, finetune
from graft.training.prepare_run import PreparedRun, assemble, resolve
from graft.training.worker_group import Ranks
from report import report

SHARED = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_1-imagenet.safetensors"
SEEDS = 5
BATCH = 16
TRAIN = {"batch_size": BATCH, "schedule": {"kind": "cosine"}}
READERS = {"blocks": BATCH * 3 // 2, "few readers": BATCH * 3 // 8}
"""Of each block shuffle."""
TAR_BYTES = 512 + 256
"""What a shard has for each image beside its bytes: a header, and what fills up the last block."""
LAB: Mapping[str, Any] = {"kind": "finetune", "augment": {"kind": "none"}}


@dataclass(frozen=True)
class Trial:
    """A dataset, and how a network learns it."""

    name: str
    folder: Path
    document: Mapping[str, Any]
    block_images: int
    """Images of a block, about."""


@dataclass(frozen=True)
class InOrder(TrainingData):
    """Shards that are read one after another, and nothing is shuffled."""

    def training_slices(
        self, train: Train, epoch: int, rank: int = 0, workers: int = 1
    ) -> list[BatchSlice]:
        places, size = np.arange(len(self.train)), train.batch_size
        parts = [places[first : first + size] for first in range(0, len(places), size)]
        return [BatchSlice(part, np.ones(len(part), np.float32), len(part)) for part in parts]


def trials(folder: Path) -> Iterator[Trial]:
    """Yield what can be measured here."""
    if (SHARED / "ants-bees").is_dir() and WEIGHTS.is_file():
        document = {
            "backbone": {"arch": "squeezenet1_1", "weights": str(WEIGHTS), "freeze": "all"},
            "train": {**TRAIN, "epochs": 10, "optimizer": {"kind": "sgd", "lr": 1e-3}},
        }
        yield Trial("ants-bees", SHARED / "ants-bees", document, block_images=3)
    else:
        print(f"skips ants-bees: it, or its weights, are not in {SHARED}")
    write_digits(folder / "digits", folder / "rest", train_per_class=80, val_per_class=90)
    document = {
        "backbone": {"arch": "timm/test_resnet", "weights": "none", "freeze": 0},
        "preprocess": {"resize": 32, "crop": 32},
        "train": {**TRAIN, "epochs": 8, "optimizer": {"kind": "sgd", "lr": 0.02}},
    }
    yield Trial("digits", folder / "digits", document, block_images=4)


class Bench:
    """A trial, imported; and what its orders come to."""

    def __init__(self, trial: Trial, folder: Path, ranks: Ranks):
        self.store = Store.open(str(folder / f"store-{trial.name}"))
        import_dataset(self.store, str(trial.folder), trial.name, test_fraction=0)
        document = {**LAB, **trial.document, "name": trial.name, "dataset": {"name": trial.name}}
        self.spec = resolve(self.store, parse_job(document, "bench"))
        self.ranks = ranks
        prepared, data = self.prepare(0)
        stored = int(data.train.sizes.mean()) + TAR_BYTES
        self.shuffles: Mapping[str, Shuffle] = {"full": FULL} | {
            name: BlockShuffle(block_bytes=trial.block_images * stored, readers=count, buffer=2)
            for name, count in READERS.items()
        }
        if prepared.plan.depth(1):
            self._fill(prepared, data)

    def prepare(self, seed: int) -> tuple[PreparedRun, TrainingData]:
        train = self.spec.train.model_copy(update={"seed": seed})
        prepared = assemble(self.store, self.spec.model_copy(update={"train": train}))
        return prepared, training_data(prepared, self.spec)

    def _cached(self, prepared: PreparedRun, data: TrainingData) -> ActivationCache:
        chain = trunk_chain(prepared.model, prepared.contract)
        return ActivationCache(self.store, data.dataset, key_scheme(self.spec, chain, "cpu"))

    def _fill(self, prepared: PreparedRun, data: TrainingData) -> None:
        cache = self._cached(prepared, data)
        setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
        fill(cache, self._entries(prepared), run_here(self.store, setup), LeaseTerms())

    def _entries(self, prepared: PreparedRun) -> list[CacheEntry]:
        return [CacheEntry(split, 0, prepared.plan.depth(1)) for split in ("train", "val")]

    def what(self) -> str:
        """Say how sorted the set is, and how much of it is mixed."""
        _, data = self.prepare(0)
        shuffles = {k: v for k, v in self.shuffles.items() if isinstance(v, BlockShuffle)}
        block = block_numbers(data.train, shuffles["blocks"].block_bytes)
        classes = [len(set(data.train.labels[block == number])) for number in set(block.tolist())]
        mixed = [f"{name} {shuffle.readers * shuffle.buffer}" for name, shuffle in shuffles.items()]
        return (
            f"{len(data.train)} images of {len(data.classes)} classes in {len(classes)} blocks, "
            f"{sum(count == 1 for count in classes)} of them of one class; mixed at a time: "
            f"{', '.join(mixed)}; {len(data.val)} images validate"
        )

    def accuracy(self, order: str, seed: int) -> float:
        """Train with an order and a seed; return the last epoch's accuracy of validation."""
        prepared, data = self.prepare(seed)
        if prepared.plan.depth(1):
            opened = self._cached(prepared, data).get_all(self._entries(prepared))
            data = replace(data, cached=OpenActivations(opened))
        if order == "in order":
            data = InOrder(**{field.name: getattr(data, field.name) for field in fields(data)})
        else:
            data = replace(data, shuffle=self.shuffles[order])
        train = self.spec.train.model_copy(update={"seed": seed})
        last = 0.0
        for event in finetune(prepared.model, data, train, prepared.plan, self.ranks, None):
            if isinstance(event, EpochDone):
                last = event.val["accuracy"]
        return last


def measure(trial: Trial, folder: Path, seeds: int, ranks: Ranks) -> None:
    """Print and record what a trial's orders come to."""
    bench = Bench(trial, folder, ranks)
    print(f"{trial.name}: {bench.what()}")
    of = {
        order: [bench.accuracy(order, seed) for seed in range(seeds)]
        for order in (*bench.shuffles, "in order")
    }
    table = Table("order", "accuracy", "difference from full", box=box.SIMPLE)
    for order, accuracies in of.items():
        gains = [mine - full for mine, full in zip(accuracies, of["full"], strict=True)]
        error = statistics.stdev(gains) / math.sqrt(seeds)
        difference = f"{statistics.mean(gains):+.4f} ± {error:.4f}" if order != "full" else ""
        table.add_row(order, f"{statistics.mean(accuracies):.4f}", difference)
    Console(width=80).print(table)
    full, blocks = (statistics.mean(of[order]) for order in ("full", "blocks"))
    report(f"block shuffle, {trial.name} sorted by class", 100 * blocks, 100 * full, "% right")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="to try the bench itself")
    chosen = parser.parse_args(words)
    ranks = Ranks.alone(set_up_process(cpus=1))  # the networks are too small for more
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        for trial in trials(Path(temporary)):
            measure(trial, Path(temporary), 2 if chosen.quick else chosen.seeds, ranks)


if __name__ == "__main__":
    main(sys.argv[1:])
