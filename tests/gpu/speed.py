"""Rows that time decoding and training: figures, not checks."""

import gc
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gpu.compare import rate, wait
from gpu.lab import TINTS, Lab, new_model, plan_of
from gpu.sizes import Sizes
from gpu.table import Figure, Row, Skipped
from graft.activations.lookup import NO_ACTIVATIONS
from graft.activations.trunk_batches import ActivationBatch
from graft.data.loader import Batch, BatchSlice, evaluation_slices
from graft.spec import Contract, Train
from graft.training.loop import EpochDone, Learner, StepDone, TrainingData, finetune, train_step
from graft.training.metrics import TrainTally
from graft.training.worker_group import Ranks

THREADS = os.cpu_count() or 1


def rows(lab: Callable[[], Lab], sizes: Sizes) -> list[Row]:
    """Return the rows of decoding and training."""
    decoding = [
        Row("decode", f"to augmented views, threads: {n}", partial(_decode, lab, n))
        for n in sorted({1, THREADS})
    ]
    steps = [_step_row(lab, *step) for step in sizes.steps]
    what = f"{sizes.arch}, decoded as it goes, threads: {THREADS}"
    return [*decoding, *steps, Row("epoch", what, lambda: _epoch(lab()))]


def compiled_rows(lab: Callable[[], Lab], sizes: Sizes) -> list[Row]:
    """Return the rows that wait for a compiler, which come last."""
    return [_step_row(lab, arch, "bf16", "channels_last", compiled=True) for arch in sizes.compiled]


class NCHW(Learner):
    """Shows the network images whose channels lie apart."""

    def activations(
        self, batch: Batch | ActivationBatch, rows: slice, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        images, targets = super().activations(batch, rows, labels)
        return images.contiguous(), targets


def _step_row(
    lab: Callable[[], Lab], arch: str, precision: str, layout: str, compiled: bool = False
) -> Row:
    what = f"{precision}, {layout}" + (", compiled" if compiled else "")
    return Row(
        f"step, {arch}",
        what,
        lambda: _step(lab(), arch, precision, layout, compiled),
        90 if compiled else 10,
    )


def _decode(laid: Callable[[], Lab], threads: int) -> Figure:
    lab = laid()
    images = lab.dataset.images("test")
    loader = lab.loader(_contract(lab), threads)
    shares = evaluation_slices(len(images), 32, 0, 1)

    def step() -> int:
        return sum(len(batch.images) for batch in loader.batches(images, shares, view=1))

    return Figure(f"{rate(step, torch.device('cpu'), lab.sizes.seconds):,.0f} images/s")


def _step(lab: Lab, arch: str, precision: str, layout: str, compiled: bool) -> Figure:
    """Time `train_step`, from decoded images on, of the whole network."""
    if compiled and lab.device.type == "cpu":
        raise Skipped("train.compile is for GPUs")
    _free(lab.device)
    sizes = lab.sizes
    model = new_model(arch, sizes.timed_crop).to(lab.device)
    if layout == "NCHW":
        model.network.to(memory_format=torch.contiguous_format)
    recipe = _recipe(lab, precision, compiled)
    kind = NCHW if layout == "NCHW" else Learner
    ranks, plan = Ranks.alone(lab.device), plan_of(model, 0, recipe)
    learner = kind.of(model.train(), plan, lab.data(), recipe, ranks, {})
    noise = np.random.default_rng(0)
    shape = (sizes.timed_batch, sizes.timed_crop, sizes.timed_crop, 3)
    batch = Batch(
        noise.integers(0, 256, shape, np.uint8),
        noise.integers(0, len(TINTS), sizes.timed_batch),
        BatchSlice(np.arange(shape[0]), np.ones(shape[0], np.float32), shape[0]),
    )
    tally = TrainTally.empty(lab.device)

    def step() -> int:
        train_step(learner, batch, 1.0, tally)
        return sizes.timed_batch

    start = time.perf_counter()
    step()
    wait(lab.device)
    first = time.perf_counter() - start
    found = rate(step, lab.device, sizes.seconds)
    return Figure(f"{found:,.0f} images/s" + (f"\nafter {first:.0f} s" if compiled else ""))


def _epoch(lab: Lab) -> Figure:
    """Time the second epoch of the loop, files decoded as it goes."""
    images = lab.dataset.images("test")
    contract = _contract(lab)
    data = TrainingData(
        lab.dataset,
        lab.loader(contract, THREADS),
        images,
        lab.dataset.images("val")[:4],
        "val",
        lab.dataset.manifest.classes,
        contract,
        lab.augment,
        NO_ACTIVATIONS,
    )
    model = new_model(lab.sizes.arch, lab.sizes.timed_crop).to(lab.device)
    recipe = _recipe(lab, "bf16" if lab.device.type == "cuda" else "fp32", compiled=False)
    start = end = 0.0
    plan = plan_of(model, 0, recipe)
    for event in finetune(model, data, recipe, plan, Ranks.alone(lab.device), None):
        if isinstance(event, EpochDone) and event.epoch == 1:
            start = time.perf_counter()
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, event.steps):
            wait(lab.device)
            end = time.perf_counter()
    return Figure(f"{len(images) / (end - start):,.0f} images/s")


def _recipe(lab: Lab, precision: str, compiled: bool) -> Train:
    return Train(
        epochs=2,
        batch_size=lab.sizes.timed_batch,
        precision="bf16" if precision == "bf16" else "fp32",
        compile=compiled,
    )


def _contract(lab: Lab) -> Contract:
    side = lab.sizes.timed_crop
    return Contract(resize=side * 8 // 7, crop=side, max_side=512)


def _free(device: torch.device) -> None:
    """Give a row all of the GPU's memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
