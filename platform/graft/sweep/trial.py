"""Trials as one process trains them, one alone or several heads together; plain torch, no Ray.

Cached activations are read where the store has them; the driver computes them beforehand. Of a
trial's weights only the tail of its best epoch is stored; how long it stays, `tails` says.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from graft.activations.cache import ActivationCache
from graft.activations.cache_decision import choose_to_cache, measure
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import fill, run_here
from graft.activations.key import key_scheme
from graft.activations.lease import LeaseTerms
from graft.activations.lookup import SharedActivations
from graft.backbones.trunk import TrunkChain, tensors_to_bytes, trunk_chain
from graft.spec import Finetune, Section
from graft.store import Store
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import State, TrialEpoch, trial_epochs
from graft.training.attempt import training_data
from graft.training.best_epoch_and_stopping import Criterion, is_over
from graft.training.checkpoint_clock import CheckpointClock, Due
from graft.training.frozen_proof import prove_frozen
from graft.training.lanes import train_lanes
from graft.training.loop import EpochDone, InsideEpoch, TrainingData, TrainingState, finetune
from graft.training.prepare_run import PreparedRun, assemble
from graft.training.run_activations import reads_of
from graft.training.run_shuffle import shuffle_of_trial
from graft.training.training_plan import make_training_plan
from graft.training.worker_group import Ranks


@dataclass(frozen=True)
class Selection:
    """How trials are compared, and which of a trial's weights are stored."""

    metric: str
    mode: str
    weights: str
    """`best`: those of the best epoch; `last`: those of the last one."""

    @property
    def criterion(self) -> Criterion:
        """What a trial's epochs are compared by."""
        return Criterion(self.metric, self.mode)


class Progress(Section):
    """How far a trial has come; it travels as JSON."""

    epochs: tuple[TrialEpoch, ...] = ()
    """All epochs so far whose numbers are finite."""
    diverged: str | None = None
    """Which number of the last epoch was not finite; null: all were."""
    checkpoint: str | None = None
    """Store key of its weights so far: the best epoch's tail, or a run's checkpoint."""
    ended: bool = False
    """Whether the trial is over: it trained all epochs, stopped early by itself, or diverged."""
    trunk_images: int = 0
    """Views of images that the trial itself sent through a frozen trunk."""
    run: str | None = None
    """Id of the run that trains it; null: it is trained without a run of its own."""
    setup_s: float = 0.0
    """Seconds before its first batch; see `TrialRecord`."""
    seconds: float = 0.0
    """Seconds of training and validation so far; see `TrialRecord`."""

    @property
    def state(self) -> State:
        """State of the trial if it ends here and nothing fails."""
        if self.diverged:
            return "diverged"
        return "finished" if self.ended else "stopped"


@dataclass(frozen=True)
class Snapshot:
    """A trial between two steps: its progress up to the last finished epoch, and the state that
    training can resume from.
    """

    progress: Progress
    training: TrainingState | None
    """None where a run of its own trains the trial: the run has checkpoints."""


class TrialProcess:
    """What all trials in one process share: the store, this worker, and opened activations."""

    def __init__(self, store: Store, sweep_id: str, selection: Selection, ranks: Ranks):
        self.store = store
        self.ranks = ranks
        self._sweep_id = sweep_id
        self._selection = selection
        self._activations = SharedActivations()

    def set_up(self, spec: Finetune) -> tuple[PreparedRun, TrunkChain, TrainingData]:
        """Build a trial's model, and its data, which reads cached activations where it can."""
        prepared = assemble(self.store, spec)
        prepared.model.to(self.ranks.device)
        chain = trunk_chain(prepared.model, prepared.contract)
        shuffle = shuffle_of_trial(self.store, self._sweep_id, spec, prepared.dataset)
        data = training_data(prepared, spec, shuffle)
        if spec.cache_refusal:
            return prepared, chain, data
        cache = self._cache(spec, chain, data)
        return prepared, chain, replace(data, cached=self._activations.lookup(cache))

    def fill(self, spec: Finetune, readers: int, waiting: Callable[[str], object]) -> int:
        """Compute a trial's activations where caching them pays; return the images computed.

        For trials that the plan does not list. Several processes that need the same ones compute
        them once.

        Args:
            spec: the trial's.
            readers: how many trials are expected to read the same activations.
            waiting: called with the process that computes them, where this one waits for it.
        """
        if spec.cache_refusal:
            return 0
        prepared, chain, data = self.set_up(spec)
        cache = self._cache(spec, chain, data)
        setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
        reads = {
            entry: times * readers
            for entry, times in reads_of(spec, data.dataset, prepared.plan).items()
            if entry.depth
        }
        images = data.dataset.images("train")
        measurement = measure(setup, self.store, images, cache.keys.dtype)
        decisions = choose_to_cache(cache, measurement, spec.cache, reads)
        entries = [entry for decision in decisions for entry in decision.entries]
        self._activations.forget()
        run = run_here(self.store, setup)
        return fill(cache, entries, run, LeaseTerms(waiting=waiting)).trunk_forwards

    def _cache(self, spec: Finetune, chain: TrunkChain, data: TrainingData) -> ActivationCache:
        keys = key_scheme(spec, chain, self.ranks.device)
        return ActivationCache(self.store, data.dataset, keys)

    def best_tail(self, trial: Trial, progress: Progress | None = None) -> "BestTail":
        """Return the follower of a trial that has made `progress` already."""
        progress = progress or Progress()
        return BestTail(self.store, self._sweep_id, trial.number, self._selection, progress)


class BestTail:
    """Follows a trial's epochs, and stores the tail of its best (or last) epoch."""

    def __init__(
        self, store: Store, sweep_id: str, number: int, selection: Selection, progress: Progress
    ):
        self._store = store
        self._folder = f"sweeps/{sweep_id}/tails"
        self._number = number
        self._selection = selection
        self.progress = progress
        """Progress of the trial, up to the last epoch that was followed."""
        self._best: TrialEpoch | None = None
        for epoch in progress.epochs:
            if selection.criterion.better(epoch, self._best):
                self._best = epoch
        # The tail to begin with is never deleted: another trial may have it, too.
        self._inherited = progress.checkpoint
        self._stored: list[str] = []
        """Keys of the tails that this object stored and has not deleted, the newest last."""
        self._pinned: str | None = None
        """Key of the tail that a checkpoint of the trial names."""

    def pin(self) -> None:
        """Do not delete the tail stored last until `pin` is called again: a checkpoint names it."""
        self._pinned = self.progress.checkpoint

    def follow(
        self,
        epoch: int,
        train: Mapping[str, Any],
        val: Mapping[str, Any],
        tail: Mapping[str, Tensor],
    ) -> Progress:
        """Take in the trial's next epoch, and return its progress; it ends if it diverged."""
        epochs, diverged = trial_epochs([(epoch, train, val)])
        checkpoint = self.progress.checkpoint
        selection = self._selection
        if epochs and (
            selection.weights == "last" or selection.criterion.better(epochs[0], self._best)
        ):
            self._best = epochs[0]
            checkpoint = self._put(tail)
        self.progress = Progress(
            epochs=self.progress.epochs + epochs,
            diverged=diverged,
            checkpoint=checkpoint,
            ended=diverged is not None,
        )
        return self.progress

    def _put(self, tail: Mapping[str, Tensor]) -> str:
        """Store a tail and return its key; of all tails, the two newest are not deleted.

        The last but one stays, since the driver may stop the trial before it hears of the newest.
        """
        ref = self._store.put(self._folder, f"{self._number}.safetensors", tensors_to_bytes(tail))
        key = f"{self._folder}/{ref.name}"
        if key in self._stored:  # the same weights again have the same key
            self._stored.remove(key)
        if key != self._inherited:
            self._stored.append(key)
        for old in self._stored[:-2]:
            if old != self._pinned:
                self._store.delete(old)
        self._stored = [old for old in self._stored[:-2] if old == self._pinned] + self._stored[-2:]
        return key


@dataclass(frozen=True)
class Keeping:
    """When a trial's snapshots are kept in the store, and by whom."""

    clock: CheckpointClock
    keep: Callable[[Snapshot], object]
    """Called with a snapshot whose tensors are those being trained: it copies them."""


def train_trial(
    process: TrialProcess,
    trial: Trial,
    resumed: Snapshot | None = None,
    keeping: Keeping | None = None,
) -> Iterator[Snapshot]:
    """Train a trial from its start, or from a snapshot; yield a snapshot after every epoch.

    `keeping`: None: none is kept.

    Raises:
        RunFailed: a frozen parameter changed during training.
    """
    spec, before = trial.spec, resumed.progress if resumed else Progress()
    began = time.monotonic()
    prepared, chain, data = process.set_up(spec)
    ready = time.monotonic()
    best = process.best_tail(trial, before)
    state = resumed.training if resumed else None
    clock = keeping.clock if keeping else None

    def snapshot(training: TrainingState, ended: bool = False) -> Snapshot:
        counted = {
            "ended": ended,
            "trunk_images": data.loader.rendered if prepared.plan.depth(1) else 0,
            "setup_s": before.setup_s + ready - began,
            "seconds": before.seconds + time.monotonic() - ready,
        }
        return Snapshot(best.progress.model_copy(update=counted), training)

    for event in finetune(
        prepared.model, data, spec.train, prepared.plan, process.ranks, state, clock
    ):
        if keeping and isinstance(event, InsideEpoch):
            best.pin()
            keeping.keep(snapshot(event.state))
        if not isinstance(event, EpochDone):
            continue
        tail = event.state.average or event.state.tail
        progress = best.follow(event.epoch, event.train, event.val, tail)
        ended = progress.ended or is_over(progress.epochs, spec.train)
        if ended:
            frozen = prepared.model.cut(prepared.plan.depth(event.epoch))
            prove_frozen(f"trial {trial.number}", frozen, prepared.contract, chain, process.ranks)
        elif keeping and keeping.clock.due(event.state.step) is not Due.NO:
            best.pin()
            keeping.keep(snapshot(event.state))
        yield snapshot(event.state, ended)
        if ended:
            return


def train_together(
    process: TrialProcess,
    trials: Sequence[Trial],
    post: Callable[[Trial, TrialEpoch | None], object],
    seconds: float | None = None,
) -> list[Progress]:
    """Train trials whose heads are lanes of one computation; return the progress of each.

    Args:
        process: this process.
        trials: those of one batch of the plan.
        post: called with every finite epoch of each trial, and with None when it starts.
        seconds: all trials stop after the epoch in which this time is up; None: no limit.

    Raises:
        RunFailed: a frozen parameter changed during training.
    """
    began = time.monotonic()
    prepared, chain, data = process.set_up(trials[0].spec)
    ready = time.monotonic()
    model = prepared.model
    recipes = [
        (make_training_plan(model, trial.spec.backbone, trial.spec.train), trial.spec.train)
        for trial in trials
    ]
    tails = [process.best_tail(trial) for trial in trials]
    for trial in trials:
        post(trial, None)
    ended = False
    for done in train_lanes(model, data, recipes, process.ranks.device):
        for lane, (trial, best) in enumerate(zip(trials, tails, strict=True)):
            if done.epoch == 0 or best.progress.diverged:
                continue
            progress = best.follow(done.epoch, done.train[lane], done.val[lane], done.tails[lane])
            if not progress.diverged:
                post(trial, progress.epochs[-1])
        ended = done.epoch == trials[0].spec.train.epochs
        if ended or (seconds is not None and time.monotonic() - began > seconds and done.epoch):
            break
    together = f"trials {trials[0].number} to {trials[-1].number}"
    prove_frozen(together, model, prepared.contract, chain, process.ranks)
    share = {
        "ended": ended,
        "setup_s": (ready - began) / len(trials),
        "seconds": (time.monotonic() - ready) / len(trials),
    }
    outcomes = [best.progress.model_copy(update=share) for best in tails]
    # All heads shared one pass through the trunk: the first one counts it.
    first = outcomes[0].model_copy(update={"trunk_images": data.loader.rendered})
    return [first, *outcomes[1:]]
