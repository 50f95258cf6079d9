"""A tiny dataset, `colours`, and runs on it; the workers are plain processes, without Ray."""

import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from commands import Forked
from graft.spec import Finetune, parse_job
from graft.store import Store

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def draw_colours(folder: Path, train: int = 13, val: int = 5, seed: int = 0, test: int = 0) -> Path:
    """Draw noisy patches of three colours, so many of each for each split."""
    noise = np.random.default_rng(seed)
    counts = {"train": train, "val": val} | ({"test": test} if test else {})
    for split, count in counts.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.normal(colour, 60, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def colour_spec(**changes: object) -> Finetune:
    """A spec for `colours`; a change's name has __ for the dots."""
    document: dict[str, object] = {
        "kind": "finetune",
        "name": "colours",
        "dataset": {"name": "colours"},
        "backbone": {"arch": "squeezenet1_1", "weights": "none", "freeze": 0},
        "preprocess": {"resize": 36, "crop": 32},
        "train": {
            "epochs": 3,
            "batch_size": 8,
            "optimizer": {"kind": "sgd", "lr": 0.005},
        },
        "loader": {"threads": 1},
        "register": {"model": "colours", "weights": "last"},
    }
    for name, value in changes.items():
        node = document
        *parents, last = name.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[last] = value
    return parse_job(document, "test")


def transfer_document(base: Finetune, epochs: int, **changes: object) -> dict[str, Any]:
    """Return a transfer report on a base, as YAML has it: every arm with one rate."""
    arm = {"epochs": epochs, "rates": [0.01]}
    return {
        "kind": "transfer-report",
        "name": base.name,
        "base": base.model_dump(mode="json", by_alias=True) | {"register": None},
        "arms": {
            "scratch": arm | {"freeze": 0},
            "features": arm | {"freeze": "all"},
            "partial": arm | {"freeze": -2},
            "full": arm | {"freeze": 0},
        },
    } | changes


def new_run(store: Store, spec: Finetune) -> str:
    from graft.training.prepare_run import resolve
    from graft.training.run_records import create_run

    return create_run(store, resolve(store, spec))


def train_together(
    store: Store,
    run: str,
    workers: int,
    die_after: int = 0,
    die_inside: int = 0,
    send: int = signal.SIGKILL,
) -> list[int]:
    """Run an attempt on gloo processes; returns exit codes.

    The first one may die after an epoch, or send itself a signal once a checkpoint inside one is
    committed.
    """
    from training.gloo_worker import main

    with tempfile.TemporaryDirectory() as folder:
        death = die_after, die_inside, int(send)
        processes = [
            Forked(main, f"{folder}/meet", rank, workers, store.uri, run, *death)
            for rank in range(workers)
        ]
        return [process.wait(240) for process in processes]
