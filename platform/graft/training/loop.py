"""The training loop, in plain torch.

`finetune` is a generator: it yields what happened, and whoever drives it (a Ray Train
worker, a test) decides what to show and what to save. Everything a step does is in
`train_step`.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graft.activations.lookup import ActivationLookup
from graft.activations.trunk_batches import ActivationBatch, activation_batches
from graft.backbones.transfer_model import TransferModel
from graft.data.epoch_order import FULL, EpochOrder, Shuffle
from graft.data.index import Images
from graft.data.loader import (
    Batch,
    BatchSlice,
    ImageLoader,
    evaluation_slices,
    to_tensor,
)
from graft.data.manifest import DatasetVersion
from graft.data.views import view_of_epoch
from graft.spec import NoAugment, Preprocess, StandardAugment, Train
from graft.training.best_epoch_and_stopping import require_finite_start
from graft.training.checkpoint_clock import CheckpointClock, Due
from graft.training.events import Untrained
from graft.training.loss import Objective
from graft.training.metrics import Tally, TrainTally, image_losses
from graft.training.moving_average import TailAverage, copy_into
from graft.training.optim import load_slots, make_optimizer, rate_factor
from graft.training.training_plan import TrainingPlan
from graft.training.worker_group import Ranks


@dataclass(frozen=True)
class TrainingData:
    """What is trained and validated on."""

    dataset: DatasetVersion
    loader: ImageLoader
    train: Images
    val: Images
    val_split: str
    """The dataset's split that `val` is part of."""
    classes: tuple[str, ...]
    preprocess: Preprocess
    augment: NoAugment | StandardAugment
    cached: ActivationLookup
    """The trunk's activations, where they are cached."""
    shuffle: Shuffle = FULL
    """What the order of training follows."""

    def training_slices(
        self, train: Train, epoch: int, rank: int = 0, workers: int = 1
    ) -> list[BatchSlice]:
        """Return this worker's slices of an epoch, from 0."""
        order = EpochOrder(self.train, self.shuffle, train.seed)
        return order.slices(epoch, train.batch_size, rank, workers)

    def batches(
        self, split: str, slices: Sequence[BatchSlice], view: int, depth: int
    ) -> Iterator[Batch | ActivationBatch]:
        """Yield one batch per slice: activations at a depth where they are cached, else images."""
        images = {"train": self.train, "val": self.val}[split]
        cached_split = self.val_split if split == "val" else split
        if activations := self.cached.find(cached_split, view, depth):
            return activation_batches(activations, images, slices)
        return self.loader.batches(images, slices, view)


@dataclass(frozen=True)
class StepDone:
    """One optimiser step is done."""

    epoch: int
    """From 1."""
    step: int
    """Number of the step in this epoch, from 1."""
    steps: int
    """Steps of an epoch."""
    images: int
    """Images of the global batch."""
    tally: TrainTally
    """This worker's sums over the epoch so far; reading them makes a GPU wait."""


@dataclass(frozen=True)
class InsideEpoch:
    """A checkpoint inside an epoch is due; from `state`, training can be resumed.

    The state's tensors are those being trained: copy them before the next step.
    """

    state: "TrainingState"
    steps: int
    """Steps of an epoch."""
    last: bool
    """Training is to end with this checkpoint."""


@dataclass(frozen=True)
class BatchValidated:
    """One of this worker's validation batches is done."""

    epoch: int
    """From 1; 0 before any training."""
    batch: int
    """From 1."""
    batches: int


@dataclass(frozen=True)
class Unfreezing:
    """The freeze depth is about to fall."""

    epoch: int
    """The first epoch that trains more stages, from 1."""
    model: TransferModel
    """The model, still cut at the old depth."""


@dataclass(frozen=True)
class EpochDone:
    """One epoch is trained and validated; from `state`, training can be resumed.

    The state's tensors are those being trained: copy them, or finish before the next step.
    """

    epoch: int
    """From 1."""
    train: dict[str, float]
    val: dict[str, float]
    confusion: NDArray[np.int64]
    """Of the validation images, (C, C): rows are true classes, columns predictions."""
    state: "TrainingState"


@dataclass(frozen=True)
class TrainingState:
    """Where training stands between two steps."""

    epoch: int
    """Finished epochs."""
    step: int
    """Finished optimiser steps."""
    tail: dict[str, Tensor]
    """The tail's parameters and buffers, by torchvision's names."""
    average: dict[str, Tensor]
    """Their moving average, if the recipe has one; it is what was validated."""
    optimizer: dict[str, dict[str, Tensor]]
    """The optimiser's tensors by parameter and slot, such as `momentum_buffer`."""
    rng: list[dict[str, Tensor]]
    """The states of torch's generators by worker and kind of device."""
    done: int = 0
    """Finished steps of the epoch that is under way; 0 between two epochs."""
    sums: list[Tensor] = field(default_factory=list)
    """Inside an epoch, what each worker's `TrainTally` has of it."""


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a pass gives: logits (b, C), labels, losses and weights (b,); without gradients."""
LoopEvent = Untrained | StepDone | InsideEpoch | BatchValidated | Unfreezing | EpochDone
"""What `finetune` yields."""


@dataclass(frozen=True)
class Learner:
    """What the steps of an epoch work on."""

    model: TransferModel
    tail: nn.Module
    """The model's tail; of several workers, one that averages their gradients."""
    optimizer: torch.optim.Optimizer
    objective: Objective
    train: Train
    preprocess: Preprocess
    ranks: Ranks

    @classmethod
    def of(
        cls,
        model: TransferModel,
        plan: TrainingPlan,
        data: TrainingData,
        train: Train,
        ranks: Ranks,
        slots: dict[str, dict[str, Tensor]],
    ) -> Self:
        """Set up the training of the model's tail; the optimiser goes on from `slots`."""
        parameters = dict(model.named_tail_parameters())
        optimizer = make_optimizer(parameters, model.stages, plan, train)
        load_slots(optimizer, parameters, slots)
        if train.compile:
            model.trunk.compile()
            model.tail.compile()
        return cls(
            model,
            averaging(model.tail) if ranks.size > 1 else model.tail,
            optimizer,
            Objective.of(train, data.train.labels, data.classes, ranks.device),
            train,
            data.preprocess,
            ranks,
        )

    def parts(self, batch: Batch | ActivationBatch) -> int:
        """Return in how many passes a batch is taken.

        The same number on every worker: synchronised BatchNorm meets in each pass.
        """
        return min(self.train.accumulate, max(1, batch.slice.total // self.ranks.size))

    def backward(self, batch: Batch | ActivationBatch, rows: slice) -> Outputs:
        """Add the gradients of some rows of a batch to those that are there."""
        labels = torch.from_numpy(batch.labels[rows]).to(self.ranks.device)
        weights = torch.from_numpy(batch.slice.weights[rows]).to(self.ranks.device)
        with autocast(self.train, self.ranks.device):
            activations, targets = self.activations(batch, rows, labels)
            logits = self.tail(activations).float()
        losses = self.objective.losses(logits, targets) * weights
        # DDP averages over workers; times their number, each image has the same weight.
        loss = losses.sum() * (self.ranks.size / batch.slice.total)
        torch.autograd.backward(loss)
        return logits.detach(), labels, losses.detach(), weights

    def activations(
        self, batch: Batch | ActivationBatch, rows: slice, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the tail's input and the targets for some rows of a batch.

        Targets are the rows' labels (b,), or (b, C) probabilities where the recipe mixes images.
        """
        if isinstance(batch, ActivationBatch):
            return batch.activations[rows].to(self.ranks.device), labels
        pixels = to_tensor(batch.images[rows], self.preprocess, self.ranks.device)
        images, targets = self.objective.mix(pixels, labels)
        return self.model.trunk(images), targets

    def regroup(self, batch: Batch | ActivationBatch) -> None:
        """Have gradients of several workers grouped as after an epoch's first step; learn nothing.

        DistributedDataParallel groups them by the order in which that step's backward brought them,
        and with more than two workers another grouping is another order of sums.
        """
        if not isinstance(self.tail, DistributedDataParallel):
            return
        buffers = {name: buffer.clone() for name, buffer in self.model.tail.named_buffers()}
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self.backward(batch, slice(0, None, self.parts(batch)))
        self.free_gradients()
        copy_into(dict(self.model.tail.named_buffers()), buffers)

    def free_gradients(self) -> None:
        """Free the gradients, which lie in buckets that last as long as any of them."""
        self.optimizer.zero_grad()

    def slots(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimiser's tensors for each parameter."""
        return {
            name: {k: v for k, v in self.optimizer.state[p].items() if isinstance(v, Tensor)}
            for name, p in self.model.named_tail_parameters()
        }


def averaging(tail: nn.Module) -> DistributedDataParallel:
    """Return a tail whose gradients the process group averages in the last backward of a step.

    Buffers are brought together once an epoch: no step reads another worker's.
    """
    return DistributedDataParallel(tail, forward_sync_buffers=False, gradient_as_bucket_view=True)


def finetune(
    model: TransferModel,
    data: TrainingData,
    train: Train,
    plan: TrainingPlan,
    ranks: Ranks,
    start: TrainingState | None,
    clock: CheckpointClock | None = None,
) -> Iterator[LoopEvent]:
    """Train the tail of `model` in place, from `start` or, if that is None, from the beginning.

    `clock`: says after which steps there is an `InsideEpoch`; None: there is none.

    Raises:
        RunFailed: the loss is not finite before any step.
    """
    torch.manual_seed(train.seed * 1_000_003 + ranks.rank)  # dropout differs between workers
    inside = start if start and start.done else None
    model = model.cut(plan.depth(start.epoch + (1 if inside else 0) if start else 1))
    average = TailAverage(train.ema_decay, {}) if train.ema_decay else None
    slots: dict[str, dict[str, Tensor]] = {}
    step = 0
    if start:
        copy_into(model.network.state_dict(), start.tail)
        if average:
            average.tensors |= {name: t.to(ranks.device) for name, t in start.average.items()}
        slots, step = start.optimizer, start.step - start.done
        if ranks.rank < len(start.rng):  # else it is a worker more than there were
            _restore_generators(start.rng[ranks.rank], ranks)
    else:
        validated = yield from _evaluate(model, data, train, ranks, 0)
        initial = validated.metrics()
        require_finite_start(initial["loss"])
        yield Untrained(initial)
    for epoch in range(start.epoch if start else 0, train.epochs):
        if plan.depth(epoch + 1) != model.depth:
            yield Unfreezing(epoch + 1, model)
            model = model.cut(plan.depth(epoch + 1))
        # A new one for every epoch: DistributedDataParallel regroups gradients after its first
        # step, and with more than two workers another grouping is another order of sums. So an
        # epoch after a resume has the same numbers as in an unbroken run.
        learner = Learner.of(model, plan, data, train, ranks, slots)
        begun = _Begun(epoch, step, average, inside)
        trained = yield from _train_epoch(learner, data, begun, clock)
        inside = None
        step += -(-len(data.train) // train.batch_size)
        slots = learner.slots()
        # Its buckets are as large as the tail: two learners' at once could be more than a GPU has.
        learner.free_gradients()
        del learner
        with average.applied(model) if average else contextlib.nullcontext():
            validated = yield from _evaluate(model, data, train, ranks, epoch + 1)
        tensors = average.tensors if average else {}
        rng = ranks.gather(_generators(ranks))
        state = TrainingState(epoch + 1, step, model.tail_state(), tensors, slots, rng)
        confusion = validated.confusion.cpu().numpy()
        yield EpochDone(epoch + 1, trained.summary(), validated.metrics(), confusion, state)


@dataclass(frozen=True)
class _Begun:
    """An epoch at its beginning, or where it is gone on with."""

    epoch: int
    """From 0."""
    step: int
    """Finished optimiser steps before it."""
    average: TailAverage | None
    inside: TrainingState | None
    """What it is gone on from; None: it is at its beginning."""

    def tally(self, ranks: Ranks) -> TrainTally:
        """Return this worker's sums over the epoch so far."""
        tally = TrainTally.empty(ranks.device)
        sums = self.inside.sums if self.inside else []
        # Where there are fewer workers now, the first one has what the missing ones had.
        missing = sums[ranks.size :] if ranks.rank == 0 else []
        for part in [*sums[ranks.rank : ranks.rank + 1], *missing]:
            tally.sums += part.to(ranks.device)
        return tally

    def state(self, learner: Learner, done: int, tally: TrainTally) -> TrainingState:
        """Return where training stands after so many of the epoch's steps."""
        ranks, model = learner.ranks, learner.model
        average = self.average.tensors if self.average else {}
        gathered = ranks.gather((_generators(ranks), tally.sums.to("cpu", copy=True)))
        rng, sums = ([pair[part] for pair in gathered] for part in (0, 1))
        step, tail, slots = self.step + done, model.tail_state(), learner.slots()
        return TrainingState(self.epoch, step, tail, average, slots, rng, done, sums)


def _train_epoch(
    learner: Learner, data: TrainingData, begun: _Begun, clock: CheckpointClock | None
) -> Generator[StepDone | InsideEpoch, None, TrainTally]:
    """Train one epoch, or what is left of it; returns the sums over all workers."""
    model, train, ranks = learner.model, learner.train, learner.ranks
    model.train()
    epoch, average, tally = begun.epoch, begun.average, begun.tally(ranks)
    first = begun.inside.done if begun.inside else 0
    slices = data.training_slices(train, epoch, ranks.rank, ranks.size)
    steps, view = len(slices), view_of_epoch(data.augment, epoch)
    batches = data.batches("train", slices[first:], view, model.depth)
    for number, batch in enumerate(batches, first):
        if number == first > 0:
            learner.regroup(batch)
        factor = rate_factor(train.schedule, begun.step + number, steps, train.epochs)
        train_step(learner, batch, factor, tally)
        done = number + 1
        if average:
            average.update(model, begun.step + done)
        yield StepDone(epoch + 1, done, steps, batch.slice.total, tally)
        # After its last step an epoch is soon done, and has a checkpoint of its own.
        due = clock.due(begun.step + done) if clock and done < steps else Due.NO
        if due is not Due.NO:
            yield InsideEpoch(begun.state(learner, done, tally), steps, due is Due.LAST)
    ranks.sum(tally.sums)
    ranks.copy_from_first(*model.tail.buffers())  # BatchNorm: rank 0's running statistics
    if average:
        ranks.copy_from_first(*average.tensors.values())
    return tally


def train_step(
    learner: Learner, batch: Batch | ActivationBatch, factor: float, tally: TrainTally
) -> None:
    """Take one optimiser step; every group's rate is multiplied by `factor`."""
    train, optimizer = learner.train, learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    optimizer.zero_grad()
    parts = learner.parts(batch)
    for part in range(parts):
        # Workers exchange gradients once a step, with the last part's backward.
        with _exchanging(learner.tail, part == parts - 1):
            tally.add(*learner.backward(batch, slice(part, None, parts)))
    if train.clip_norm is not None:
        trained = [parameter for _, parameter in learner.model.named_tail_parameters()]
        nn.utils.clip_grad_norm_(trained, train.clip_norm)
    optimizer.step()


def autocast(train: Train, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16")


def _exchanging(tail: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    if now or not isinstance(tail, DistributedDataParallel):
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = tail.no_sync()
    return context


def _evaluate(
    model: TransferModel, data: TrainingData, train: Train, ranks: Ranks, epoch: int
) -> Generator[BatchValidated, None, Tally]:
    """Validate on view 0, each image on exactly one worker; returns the `Tally` over all workers.

    `epoch` is the number of the finished one, 0 before any training.
    """
    model.eval()
    tally = Tally.empty(len(data.classes), ranks.device)
    slices = evaluation_slices(len(data.val), train.batch_size, ranks.rank, ranks.size)
    for number, batch in enumerate(data.batches("val", slices, 0, model.depth)):
        labels = torch.from_numpy(batch.labels).to(ranks.device)
        weights = torch.from_numpy(batch.slice.weights).to(ranks.device)
        with torch.no_grad(), autocast(train, ranks.device):
            if isinstance(batch, ActivationBatch):
                activations = batch.activations.to(ranks.device)
            else:
                activations = model.trunk(to_tensor(batch.images, data.preprocess, ranks.device))
            logits = model.tail(activations).float()
        tally.add(logits, labels, image_losses(logits, labels), weights)
        yield BatchValidated(epoch, number + 1, len(slices))
    ranks.sum(*tally.tensors())
    return tally


def _generators(ranks: Ranks) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(ranks.device)
    return states


def _restore_generators(states: dict[str, Tensor], ranks: Ranks) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], ranks.device)
