"""The learning-rate range test: a short training in which the rate grows with every step.

Smith 2015, arXiv:1506.01186; the rate grows exponentially, as fastai's `lr_find` made usual. The
steps are those of `graft train` at its first freeze depth, on one worker, and what they train is
thrown away.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.process_setup import set_up_process
from graft.data.epoch_order import choose_shuffle
from graft.data.loader import Batch
from graft.data.views import view_of_epoch
from graft.spec import DecayedRates, Finetune, ListedRates, Train
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.best_epoch_and_stopping import require_finite_start
from graft.training.loop import Learner, TrainingData, train_step
from graft.training.metrics import TrainTally
from graft.training.prepare_run import assemble
from graft.training.worker_group import Ranks

SMOOTHING = 0.2
"""Standard deviation of the Gaussian that smooths the losses, in decades of the rate."""
RECENT = 5
"""Steps whose mean loss shows whether training has run away."""
DIVERGED = 4
"""Training has run away where that mean is more than this many times its lowest value. Losses are
cut to this many times the first ones before they are smoothed."""
FALL = 0.75
"""Part of its fall that the smoothed loss has done at the suggested rate."""
ROUNDING = 1e-9
"""Part of the loss by which sums of floats may differ; a fall is larger."""
CLEAR = 4
"""Least number of standard errors of a fall."""


@dataclass(frozen=True)
class RateRange:
    """The learning rates of a test: `steps` of them, 10 or more, in equal ratios."""

    start: float
    end: float
    steps: int

    def rates(self) -> list[float]:
        """Return the rate of each step."""
        rates: list[float] = np.geomspace(self.start, self.end, self.steps).tolist()
        return rates


@dataclass(frozen=True)
class Curve:
    """The result of a test; lists are by step."""

    rates: list[float]
    losses: list[float]
    """Mean loss of the recipe over each batch, before its step."""
    smoothed: list[float]
    suggested: float | None
    """A learning rate; None where the loss does not fall clearly."""


def range_losses(
    store: Store, spec: Finetune, rate_range: RateRange, gpus: int = 0
) -> Iterator[float]:
    """Train as a resolved spec says, but at the rates of a range; yield each batch's loss.

    All losses are finite. The test ends early where the loss runs away. `gpus` is the number of
    GPUs that this process may use, 0 or 1.

    Raises:
        RunFailed: the first loss is not finite.
    """
    spec = _for_one_worker(spec)
    train = spec.train
    ranks = Ranks.alone(set_up_process(spec.scaling.cpus_per_worker, gpus))
    prepared = assemble(store, spec)
    data = training_data(prepared, spec, choose_shuffle(spec, prepared.dataset))
    model = prepared.model.to(ranks.device)
    torch.manual_seed(train.seed * 1_000_003)  # as `finetune` does
    learner = Learner.of(model, prepared.plan, data, train, ranks, slots={})
    model.train()
    losses: list[float] = []
    lowest = math.inf
    for rate, batch in zip(rate_range.rates(), _batches(data, train), strict=False):
        tally = TrainTally.empty(ranks.device)
        train_step(learner, batch, rate / train.optimizer.lr, tally)
        loss = tally.summary()["loss"]
        if not math.isfinite(loss):
            if not losses:
                require_finite_start(loss)
            return
        yield loss
        losses.append(loss)
        recent = float(np.mean(losses[-RECENT:]))
        lowest = min(lowest, recent)
        if recent > DIVERGED * lowest:
            return


def _for_one_worker(spec: Finetune) -> Finetune:
    """Return a spec by which one worker, with or without a GPU, takes the steps of all workers.

    It takes their passes one after another. BatchNorm's statistics are over one worker's pass; with
    `sync` they are over the passes of all workers, which one pass then stands for.
    """
    train = spec.train
    passes = train.accumulate * (1 if train.batch_norm == "sync" else spec.scaling.workers)
    # A test is too short for compiling to pay.
    changes = {"accumulate": passes, "batch_norm": "replica", "compile": False}
    return spec.model_copy(update={"train": train.model_copy(update=changes)})


def _batches(data: TrainingData, train: Train) -> Iterator[Batch]:
    """Yield the batches of epoch after epoch, without end.

    An epoch's last batch is left out where it is smaller: its loss scatters more.
    """
    epoch = 0
    while True:
        slices = data.training_slices(train, epoch)
        whole = [batch for batch in slices if batch.total == slices[0].total]
        yield from data.loader.batches(data.train, whole, view_of_epoch(data.augment, epoch))
        epoch += 1


def make_curve(losses: Sequence[float], rate_range: RateRange) -> Curve:
    """Smooth a test's losses and suggest a rate: where three quarters of the fall are done.

    The fall is from the mean of the first tenth of the steps to the lowest smoothed loss. These
    are sums over many steps, so the rule is stable where the usual ones jump: of one curve
    (SqueezeNet's head, SGD), smoothed over 0.1, 0.2 and 0.4 decades, the steepest descent lay at
    3e-2, 7e-4 and 5e-4, the lowest loss at 2e-1, 2e-1 and 6e-3; this rule said 1.1e-3, 9e-4 and
    8e-4.
    """
    raw = np.asarray(losses)
    first_steps = rate_range.steps // 10
    first_loss = float(raw[:first_steps].mean())
    # Smoothed, a loss of millions would hide the decade before it.
    weights = _smoothing(len(raw), rate_range)
    smoothed = weights @ np.minimum(raw, DIVERGED * first_loss)
    lowest = int(smoothed.argmin())
    suggested = None
    if lowest >= first_steps:
        fall = first_loss - smoothed[lowest]
        # Neighbours differ by noise, hardly by the trend; the median ignores single leaps.
        scatter = np.median(np.abs(np.diff(raw[: lowest + 1]))) / 0.954
        error = scatter * math.sqrt(1 / first_steps + (weights[lowest] ** 2).sum())
        if fall > max(CLEAR * error, ROUNDING * first_loss):
            step = int(np.argmax(smoothed <= first_loss - FALL * fall))
            # A loss is measured before its step, so it shows the rates up to the one before.
            suggested = float(f"{rate_range.rates()[max(0, step - 1)]:.2g}")
    return Curve(rate_range.rates()[: len(raw)], raw.tolist(), smoothed.tolist(), suggested)


def _smoothing(losses: int, rate_range: RateRange) -> NDArray[np.float64]:
    """Return the weight of each loss in each smoothed loss: (n, n), rows sum to 1.

    Smoothing looks forward as well as back: an average over the past alone would show every fall
    at a higher rate than where it began.
    """
    width = SMOOTHING * (rate_range.steps - 1) / math.log10(rate_range.end / rate_range.start)
    steps = np.arange(losses)
    weights = np.exp(-(((steps[:, None] - steps) / width) ** 2) / 2)
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised


def settings(train: Train, rate: float) -> list[str]:
    """Return the values of `--set` to train at a rate; other stages' rates change in proportion."""
    factor = rate / train.optimizer.lr
    changes = [f"train.optimizer.lr={rate:g}"]
    if isinstance(train.rates, DecayedRates) and train.rates.backbone:
        changes.append(f"train.rates.backbone={train.rates.backbone * factor:.3g}")
    elif isinstance(train.rates, ListedRates):
        stages = [
            {"match": stage.match, "lr": float(f"{stage.lr * factor:.3g}")}
            for stage in train.rates.stages
        ]
        changes.append("train.rates=" + json.dumps({"kind": "list", "stages": stages}))
    return changes
