"""The learning-rate range test: a short training in which the rate grows with every step.

Smith 2015, arXiv:1506.01186; growing exponentially, as fastai's `lr_find` made usual. Its
steps are those of `graft train` at its first freeze depth, on one worker, and nothing of
them is kept.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.memory import keep_freed_memory
from graft.data.loader import Batch, training_shares
from graft.data.views import view_of_epoch
from graft.errors import RunFailed
from graft.spec import DecayedRates, Finetune, ListedRates, Train
from graft.store import Store
from graft.training.attempt import repeat_exactly, training_data
from graft.training.loop import Data, Learner, train_step
from graft.training.metrics import Tally
from graft.training.prepare import assemble
from graft.training.ranks import Ranks

SMOOTHING = 0.2
"""Standard deviation of the Gaussian that smooths the losses, in decades of the rate."""
RECENT = 5
"""Steps whose mean loss tells whether training has run away."""
DIVERGED = 4
"""It has where that is this many times its lowest. Also how many times the beginning's a
loss counts at most when losses are smoothed."""
FALL = 0.75
"""The suggested rate is where the smoothed loss has done this part of its fall."""
ROUNDING = 1e-9
"""Part of the loss that sums of floats may differ by: no fall."""
CLEAR = 4
"""A fall counts if it is this many times its standard error."""


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
    """What a test found, by step."""

    rates: list[float]
    losses: list[float]
    """The recipe's own, of each batch before its step."""
    smoothed: list[float]
    suggested: float | None
    """Learning rate; None where the loss does not fall clearly."""


def range_losses(store: Store, spec: Finetune, tested: RateRange, ranks: Ranks) -> Iterator[float]:
    """Train as a resolved spec says, but for the rates; yield each batch's loss, all finite.

    Ends early where the loss runs away.

    Raises:
        RunFailed: the first loss is not finite.
    """
    spec = _on_one_worker(spec)
    train = spec.train
    torch.set_num_threads(spec.scaling.cpus_per_worker)
    keep_freed_memory()
    if ranks.device.type == "cuda":
        repeat_exactly()
    assembly = assemble(store, spec)
    data = training_data(assembly, spec)
    model = assembly.model.to(ranks.device)
    torch.manual_seed(train.seed * 1_000_003)  # as `finetune` does
    learner = Learner.of(model, assembly.plan, data, train, ranks, slots={})
    model.train()
    losses: list[float] = []
    lowest = math.inf
    for rate, batch in zip(tested.rates(), _batches(data, train), strict=False):
        tally = Tally.empty(len(data.classes), ranks.device)
        train_step(learner, batch, rate / train.optimizer.lr, tally)
        loss = tally.summary()["loss"]
        if not math.isfinite(loss):
            if not losses:
                raise RunFailed("the loss is not finite before any step; check backbone.weights")
            return
        yield loss
        losses.append(loss)
        recent = float(np.mean(losses[-RECENT:]))
        lowest = min(lowest, recent)
        if recent > DIVERGED * lowest:
            return


def _on_one_worker(spec: Finetune) -> Finetune:
    """Return a spec with which one worker, with or without a GPU, does what all of `spec`'s do.

    It takes the passes of the others too, in turn. BatchNorm's statistics are over the passes
    of one worker, or (`sync`) over one pass of all workers: then there are no passes more.
    """
    train = spec.train
    passes = train.accumulate * (1 if train.batch_norm == "sync" else spec.scaling.workers)
    # A test is too short for compiling to pay.
    changes = {"accumulate": passes, "batch_norm": "replica", "compile": False}
    return spec.model_copy(update={"train": train.model_copy(update=changes)})


def _batches(data: Data, train: Train) -> Iterator[Batch]:
    """Yield the batches of epoch after epoch, without end.

    An epoch's last one, where it is short, is left out: its loss scatters more.
    """
    epoch = 0
    while True:
        shares = training_shares(len(data.train), train.batch_size, train.seed, epoch, 0, 1)
        whole = [share for share in shares if share.total == shares[0].total]
        yield from data.loader.batches(data.train, whole, view_of_epoch(data.augment, epoch))
        epoch += 1


def make_curve(losses: Sequence[float], tested: RateRange) -> Curve:
    """Smooth a test's losses and suggest a rate: where three quarters of the fall are done.

    The fall is from the mean of the first tenth of the steps to the lowest smoothed loss. As a
    sum over many steps that holds still where the usual rules jump: of one curve (SqueezeNet's
    head, SGD), smoothed over 0.1, 0.2 and 0.4 decades, the steepest descent lay at 3e-2, 7e-4
    and 5e-4, the lowest loss at 2e-1, 2e-1 and 6e-3; this rule said 1.1e-3, 9e-4 and 8e-4.
    """
    raw = np.asarray(losses)
    beginning = tested.steps // 10
    begin = float(raw[:beginning].mean())
    # Smoothed, a loss of millions would hide the decade before it.
    weights = _smoothing(len(raw), tested)
    smoothed = weights @ np.minimum(raw, DIVERGED * begin)
    lowest = int(smoothed.argmin())
    suggested = None
    if lowest >= beginning:
        fall = begin - smoothed[lowest]
        # Between neighbours the trend is small; by the median, so are single batches' leaps.
        scatter = np.median(np.abs(np.diff(raw[: lowest + 1]))) / 0.954
        error = scatter * math.sqrt(1 / beginning + (weights[lowest] ** 2).sum())
        if fall > max(CLEAR * error, ROUNDING * begin):
            first = int(np.argmax(smoothed <= begin - FALL * fall))
            # A loss is from before its step: what the rates up to the last one have done.
            suggested = float(f"{tested.rates()[max(0, first - 1)]:.2g}")
    return Curve(tested.rates()[: len(raw)], raw.tolist(), smoothed.tolist(), suggested)


def _smoothing(losses: int, tested: RateRange) -> NDArray[np.float64]:
    """Return what each smoothed loss takes of each loss: (n, n), rows sum to 1.

    It looks forward as well as back: an average over the past alone shows every fall at a
    higher rate than it began at.
    """
    width = SMOOTHING * (tested.steps - 1) / math.log10(tested.end / tested.start)
    steps = np.arange(losses)
    weights = np.exp(-(((steps[:, None] - steps) / width) ** 2) / 2)
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised


def settings(train: Train, rate: float) -> list[str]:
    """Return what `--set` takes to train at a rate, all stages' in the proportions of `train`."""
    factor = rate / train.optimizer.lr
    found = [f"train.optimizer.lr={rate:g}"]
    if isinstance(train.rates, DecayedRates) and train.rates.backbone:
        found.append(f"train.rates.backbone={train.rates.backbone * factor:.3g}")
    elif isinstance(train.rates, ListedRates):
        stages = [
            {"match": stage.match, "lr": float(f"{stage.lr * factor:.3g}")}
            for stage in train.rates.stages
        ]
        found.append("train.rates=" + json.dumps({"kind": "list", "stages": stages}))
    return found
