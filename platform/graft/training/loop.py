"""The training loop, in plain torch.

`finetune` is a generator: it yields what happened, and whoever drives it (a Ray Train
worker, a test) decides what to show and what to keep. Everything a step does is in
`_train_epoch`.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from graft.backbones.model import TransferModel
from graft.data.loader import ImageLoader, evaluation_shares, to_tensor, training_shares
from graft.data.manifest import Image
from graft.data.views import view_of_epoch
from graft.spec import NoAugment, Preprocess, StandardAugment, Train
from graft.training.metrics import Tally, image_losses
from graft.training.optim import make_optimizer, rate_factor
from graft.training.ranks import Ranks


@dataclass(frozen=True)
class Data:
    """What is trained and validated on."""

    loader: ImageLoader
    train: Sequence[Image]
    val: Sequence[Image]
    classes: tuple[str, ...]
    preprocess: Preprocess
    augment: NoAugment | StandardAugment


@dataclass(frozen=True)
class StepDone:
    """One optimiser step is done."""

    epoch: int
    """From 1."""
    step: int
    """In this epoch, from 1."""
    steps: int
    """In an epoch."""
    images: int
    """In the global batch."""
    tally: Tally
    """This worker's sums over the epoch so far; to read them makes a GPU wait."""


@dataclass(frozen=True)
class BatchValidated:
    """One of this worker's validation batches is done."""

    epoch: int
    """From 1."""
    batch: int
    """From 1."""
    batches: int


@dataclass(frozen=True)
class EpochDone:
    """One epoch is trained and validated; `state` is all that going on from here takes.

    Its tensors are those being trained: keep a copy, or be done before the next step.
    """

    epoch: int
    """From 1."""
    train: dict[str, float]
    val: dict[str, Any]
    state: "TrainingState"


@dataclass(frozen=True)
class TrainingState:
    """Where training stands between two epochs."""

    epoch: int
    """Finished epochs."""
    step: int
    """Finished optimiser steps."""
    tail: dict[str, Tensor]
    """The tail's parameters and buffers, by torchvision's names."""
    optimizer: dict[str, dict[str, Tensor]]
    """Parameter's name -> the optimiser's tensors for it."""
    rng: list[dict[str, Tensor]]
    """Per worker, the states of torch's generators by device kind."""


def finetune(
    model: TransferModel, data: Data, train: Train, ranks: Ranks, start: TrainingState | None
) -> Iterator[StepDone | BatchValidated | EpochDone]:
    """Train the tail of `model` in place, from `start` or from the beginning."""
    parameters = dict(model.named_tail_parameters())
    optimizer = make_optimizer(train.optimizer, parameters.values())
    torch.manual_seed(train.seed * 1_000_003 + ranks.rank)  # dropout differs between workers
    if start:
        _restore(model, optimizer, parameters, ranks, start)
    # Buffers are brought together once an epoch, in _train_epoch: no step reads another's.
    tail = DistributedDataParallel(
        model.tail, forward_sync_buffers=False, gradient_as_bucket_view=True
    )
    step = start.step if start else 0
    for epoch in range(start.epoch if start else 0, train.epochs):
        trained = yield from _train_epoch(model, tail, data, train, ranks, optimizer, epoch, step)
        step += -(-len(data.train) // train.batch_size)
        validated = yield from _evaluate(model, data, train.batch_size, ranks, epoch)
        state = _capture(model, optimizer, parameters, ranks, epoch + 1, step)
        yield EpochDone(epoch + 1, trained.summary(), validated.metrics(data.classes), state)


def _train_epoch(
    model: TransferModel,
    tail: DistributedDataParallel,
    data: Data,
    train: Train,
    ranks: Ranks,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    step: int,
) -> Generator[StepDone, None, Tally]:
    """Train one epoch; returns the `Tally` over all workers."""
    model.tail.train()
    tally = Tally.empty(len(data.classes), ranks.device)
    shares = training_shares(
        len(data.train), train.batch_size, train.seed, epoch, ranks.rank, ranks.size
    )
    view = view_of_epoch(data.augment, epoch)
    for number, batch in enumerate(data.loader.batches(data.train, shares, view)):
        for group in optimizer.param_groups:
            group["lr"] = train.optimizer.lr * rate_factor(
                train.schedule, step + number, len(shares), train.epochs
            )
        optimizer.zero_grad()
        # The same on every worker: synchronised BatchNorm meets in each pass.
        parts = min(train.accumulate, max(1, batch.share.total // ranks.size))
        for part in range(parts):
            mine = slice(part, None, parts)
            images = to_tensor(batch.images[mine], data.preprocess, ranks.device)
            labels = torch.from_numpy(batch.labels[mine]).to(ranks.device)
            weights = torch.from_numpy(batch.share.weights[mine]).to(ranks.device)
            # Workers exchange gradients once a step, with the last part's backward.
            with contextlib.nullcontext() if part == parts - 1 else tail.no_sync():
                logits = tail(model.trunk(images))
                losses = image_losses(logits, labels) * weights
                # DDP averages over workers; times their number, each image has the same say.
                loss = losses.sum() * (ranks.size / batch.share.total)
                torch.autograd.backward(loss)
            tally.add(logits.detach(), labels, losses.detach(), weights)
        optimizer.step()
        yield StepDone(epoch + 1, number + 1, len(shares), batch.share.total, tally)
    ranks.sum(*tally.tensors())
    ranks.copy_from_first(*model.tail.buffers())  # BatchNorm: rank 0's running statistics
    return tally


def _evaluate(
    model: TransferModel, data: Data, batch_size: int, ranks: Ranks, epoch: int
) -> Generator[BatchValidated, None, Tally]:
    """Validate on view 0, each image on exactly one worker; returns the `Tally` over all."""
    model.eval()
    tally = Tally.empty(len(data.classes), ranks.device)
    shares = evaluation_shares(len(data.val), batch_size, ranks.rank, ranks.size)
    for number, batch in enumerate(data.loader.batches(data.val, shares, view=0)):
        labels = torch.from_numpy(batch.labels).to(ranks.device)
        weights = torch.from_numpy(batch.share.weights).to(ranks.device)
        with torch.no_grad():
            logits = model(to_tensor(batch.images, data.preprocess, ranks.device))
        tally.add(logits, labels, image_losses(logits, labels), weights)
        yield BatchValidated(epoch + 1, number + 1, len(shares))
    ranks.sum(*tally.tensors())
    return tally


def _capture(
    model: TransferModel,
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    ranks: Ranks,
    epoch: int,
    step: int,
) -> TrainingState:
    rng = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(ranks.device)
    slots = {
        name: {k: v for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor)}
        for name, parameter in parameters.items()
    }
    return TrainingState(epoch, step, model.tail_state(), slots, ranks.gather(rng))


def _restore(
    model: TransferModel,
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    ranks: Ranks,
    start: TrainingState,
) -> None:
    own = model.network.state_dict()
    for name, value in start.tail.items():
        own[name].copy_(value)
    for name, slots in start.optimizer.items():
        like = parameters[name]
        optimizer.state[like] = {
            # A fused step walks through memory: what has a parameter's shape needs its layout.
            key: torch.empty_like(like).copy_(value)
            if value.shape == like.shape
            else value.to(ranks.device, copy=True)
            for key, value in slots.items()
        }
    rng = start.rng[ranks.rank]
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"], ranks.device)
