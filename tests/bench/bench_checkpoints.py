"""What checkpoints inside an epoch cost.

Images/s of training with a checkpoint every 10 steps against none, rounds by turns, the median of
each: of a whole network, whose steps are slow, and of a head on cached activations, whose steps
take milliseconds. Then, for a tail of 100 MB, how long a step waits for its checkpoint against one
that writes it itself, as loops do that save where they are; and how large the checkpoint of a head
is, beside the head and its optimiser. One worker, a store in a directory.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from photographs import photographs

from graft.backbones.process_setup import set_up_process
from graft.data.importing import import_dataset
from graft.spec import Checkpointing, Finetune, parse_job
from graft.store import Store, document_bytes
from graft.training.attempt import run_attempt, training_data
from graft.training.attempt_pointer import claim_attempt
from graft.training.checkpoint import put_state
from graft.training.checkpoint_clock import CheckpointClock
from graft.training.events import Event, Notice, Saved
from graft.training.loop import InsideEpoch, StepDone, finetune
from graft.training.prepare_run import assemble, resolve
from graft.training.run_records import create_run, read_result, run_folder
from graft.training.step_checkpoint import StepCheckpoint, step_folder
from graft.training.step_writer import StepWriter
from graft.training.worker_group import Ranks
from report import report

CORES = os.cpu_count() or 1
ROUNDS = 3
PAUSES = 8
"""Checkpoints of the large tail."""
SMALL = {"resize": 36, "crop": 32}
"""So small are the images of the large tail, whose pause does not depend on them."""


def spec_of(store: Store, arch: str, every: str, **changes: Any) -> Finetune:
    """Return a resolved spec that makes checkpoints so often."""
    document = {
        "kind": "finetune",
        "name": "bench",
        "dataset": {"name": "bench"},
        "scaling": {"cpus_per_worker": CORES},
    }
    backbone = {"arch": arch, "weights": "none", "freeze": changes.pop("freeze", 0)}
    train = {"checkpoint": {"every": every}} | changes.pop("train")
    return resolve(
        store, parse_job(document | {"backbone": backbone, "train": train} | changes, "bench")
    )


def rate(store: Store, spec: Finetune, ranks: Ranks) -> tuple[float, list[Saved]]:
    """Train a run; return images/s and the checkpoints inside its epochs."""
    run, saved = create_run(store, spec), []

    def post(event: Event) -> None:
        if isinstance(event, Saved):
            saved.append(event)

    run_attempt(store, run, ranks, post, time.time())
    result = read_result(store, run)
    assert result
    return result.images_per_second, saved


def against_none(store: Store, ranks: Ranks, name: str, arch: str, **changes: Any) -> list[Saved]:
    """Report the cost of a checkpoint every 10 steps; return the last run's."""
    rates: dict[str, list[float]] = {"10 steps": [], "epoch": []}
    last: list[Saved] = []
    for _ in range(ROUNDS):
        for every, measured in rates.items():
            speed, saved = rate(store, spec_of(store, arch, every, **dict(changes)), ranks)
            measured.append(speed)
            print(f"{name}, every {every}: {speed:.1f} images/s, {len(saved)} written", flush=True)
            last = saved or last
    ours, baseline = (statistics.median(measured) for measured in rates.values())
    report(f"{name}, a checkpoint every 10 steps against none", ours, baseline, "images/s")
    return last


def pauses(store: Store, ranks: Ranks, optimizer: dict[str, Any]) -> None:
    """Report how long a step of a tail of 100 MB waits for its checkpoint."""
    train = {"epochs": 50, "batch_size": 8, "optimizer": optimizer}
    spec = spec_of(store, "resnet50", "5 steps", preprocess=SMALL, train=train)
    waits, alone, beside = pause_seconds(store, spec, ranks)
    inline = inline_seconds(store, spec, ranks)
    kind = optimizer["kind"]
    print(
        f"resnet50, {kind}: a step takes {alone * 1000:.0f} ms, beside a write "
        f"{beside * 1000:.0f} ms; waits {', '.join(f'{w * 1000:.0f}' for w in waits)} ms"
    )
    report(
        f"longest pause of a step for a tail of 100 MB ({kind}), against writing within it",
        max(waits) * 1000,
        inline * 1000,
        "ms",
        higher_is_better=False,
    )


def inside_events(store: Store, spec: Finetune, ranks: Ranks) -> Iterator[InsideEpoch | StepDone]:
    """Yield the steps of a training, and where a checkpoint is due."""
    prepared = assemble(store, spec)
    data = training_data(prepared, spec)
    clock = CheckpointClock(Checkpointing(every="5 steps"), ranks, lambda: Notice.NONE)
    for event in finetune(prepared.model, data, spec.train, prepared.plan, ranks, None, clock):
        if isinstance(event, InsideEpoch | StepDone):
            yield event


def pause_seconds(store: Store, spec: Finetune, ranks: Ranks) -> tuple[list[float], float, float]:
    """Return how long steps wait, and a step's median seconds alone and beside a write."""
    run = create_run(store, spec)
    pointer = claim_attempt(store, run_folder(run))
    writer = StepWriter(store, run, pointer, print, lambda saved: None)
    waits: list[float] = []
    steps: dict[bool, list[float]] = {False: [], True: []}
    began = time.perf_counter()
    for event in inside_events(store, spec, ranks):
        now = time.perf_counter()
        if isinstance(event, StepDone):
            steps[writer.background.is_busy].append(now - began)
        else:
            folder = step_folder(run, pointer.attempt, event.state.step)
            if writer.write(folder, event.state, partial(marker, run, event)):
                waits.append(time.perf_counter() - now)
            if len(waits) == PAUSES:
                break
        began = time.perf_counter()
    writer.clear()
    return waits, *(statistics.median(steps[writing]) for writing in (False, True))


def inline_seconds(store: Store, spec: Finetune, ranks: Ranks) -> float:
    """Return the longest time in which a step writes its checkpoint itself."""
    run, seconds = create_run(store, spec), []
    for event in inside_events(store, spec, ranks):
        if isinstance(event, InsideEpoch):
            began = time.perf_counter()
            folder = step_folder(run, 1, event.state.step)
            checkpoint = marker(run, event, put_state(store, folder, event.state))
            store.create(f"{folder}/checkpoint.json", document_bytes(checkpoint))
            seconds.append(time.perf_counter() - began)
            if len(seconds) == PAUSES:
                break
    return max(seconds)


def marker(run: str, event: InsideEpoch, tensors: Any) -> StepCheckpoint:
    """Return the marker of a checkpoint, as a run's recorder makes it."""
    state = event.state
    return StepCheckpoint(
        run=run,
        attempt=1,
        epoch=state.epoch,
        step=state.step,
        done=state.done,
        steps=event.steps,
        workers=1,
        freeze=0,
        trunk_digest="0" * 64,
        initial={},
        tensors=tensors,
    )


def main() -> None:
    """Measure, print, append to bench.jsonl."""
    ranks = Ranks.alone(set_up_process(CORES))
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        store = Store.open(f"{scratch}/store")
        source = photographs(Path(scratch) / "images")
        import_dataset(store, str(source), "bench", test_fraction=0)
        whole = {"epochs": 2, "batch_size": 8}
        against_none(store, ranks, "squeezenet1_1 whole", "squeezenet1_1", train=whole)
        head = {"epochs": 60, "batch_size": 8}
        saved = against_none(
            store,
            ranks,
            "a head on cached activations",
            "resnet18",
            freeze="all",
            cache="on",
            augment={"kind": "standard", "views": 1},
            train=head,
        )
        parameters = 4 * (512 + 1) * 2  # of two classes
        beside = saved[-1].bytes - 2 * parameters  # the head, and its momentum
        print(f"the head {parameters:,} bytes, its checkpoint {saved[-1].bytes:,}")
        name = "a head's checkpoint beside the head and its momentum, against 100 kB"
        report(name, beside / 1000, 100, "kB", higher_is_better=False)
        for optimizer in ({"kind": "sgd", "lr": 1e-4}, {"kind": "adamw", "lr": 1e-4}):
            pauses(store, ranks, optimizer)


if __name__ == "__main__":
    main()
