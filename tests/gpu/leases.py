"""Rows on what a process computes with: its device, its numbers, and what it leaves behind."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from gpu.compare import apart, wait
from gpu.lab import Lab, plan_of
from gpu.table import Figure, Row
from graft.backbones.process_setup import set_up_process
from graft.data.loader import Batch, BatchSlice
from graft.training.loop import Learner, averaging, train_step
from graft.training.metrics import TrainTally
from graft.training.worker_group import Ranks

FLOAT32 = 2e-5
"""Largest difference from float64, as a part of the largest number; TF32's is about 1e-3."""


def rows(lab: Callable[[], Lab]) -> list[Row]:
    """Return the rows."""
    return [
        Row("leased device", "the CPU where no GPU was asked for", lambda: _device(lab())),
        Row("float32", f"no TF32: within {FLOAT32:g} of float64", lambda: _float32(lab())),
        Row("averaging", "a group of one: the bits of none; buckets freed", lambda: _alone(lab())),
    ]


def _device(lab: Lab) -> Figure:
    threads = torch.get_num_threads()
    without = set_up_process(threads)
    leased = set_up_process(threads, gpus=int(lab.device.type == "cuda"))
    good = without.type == "cpu" and leased.type == lab.device.type
    return Figure(f"{without}, {leased}", good)


def _float32(lab: Lab) -> Figure:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 32, 32, generator=generator)
    kernel = torch.randn(64, 64, 3, 3, generator=generator)
    matrix = torch.randn(512, 512, generator=generator)
    convolved = functional.conv2d(x.to(lab.device), kernel.to(lab.device))
    product = matrix.to(lab.device) @ matrix.to(lab.device)
    value = max(
        apart(convolved, functional.conv2d(x.double(), kernel.double())),
        apart(product, matrix.double() @ matrix.double()),
    )
    return Figure(f"apart {value:.1e}", value <= FLOAT32)


def _alone(lab: Lab) -> Figure:
    """Take a step without and with DistributedDataParallel, and free what that held."""
    tails, freed = [], False
    for exchange in (False, True):
        model, recipe = lab.model(0).to(lab.device), lab.recipe(0)
        ranks, plan = Ranks.alone(lab.device), plan_of(model, 0, recipe)
        learner = Learner.of(model, plan, lab.data(), recipe, ranks, {})
        if exchange:
            learner = replace(learner, tail=averaging(model.tail))
        model.train()
        torch.manual_seed(0)  # of dropout
        train_step(learner, _noise(lab), 1.0, TrainTally.empty(lab.device))
        tails.append({name: tensor.clone() for name, tensor in model.tail_state().items()})
        buckets = weakref.ref(learner.tail)
        learner.free_gradients()
        del learner
        wait(lab.device)
        gc.collect()
        freed = buckets() is None
    same = all(torch.equal(tensor, tails[1][name]) for name, tensor in tails[0].items())
    text = ("the same" if same else "apart") + ("" if freed else "\nnot freed")
    return Figure(text, same and freed)


def _noise(lab: Lab) -> Batch:
    noise, side, images = np.random.default_rng(0), lab.sizes.crop, 4
    weights = BatchSlice(np.arange(images), np.ones(images, np.float32), images)
    pixels = noise.integers(0, 256, (images, side, side, 3), np.uint8)
    return Batch(pixels, noise.integers(0, 3, images), weights)
