"""Trials as a process trains them, one alone or several heads together; plain torch, no Ray.

Activations are read where the store has them; the driver has seen to that beforehand. Of a
trial's weights its best epoch's tail is kept, in ``sweeps/<sweep>/tails/``.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graft.activations.cache import Activations, find
from graft.activations.fill import fill, run_here
from graft.backbones.trunk import TrunkChain, tensors_to_bytes, trunk_chain
from graft.errors import RunFailed
from graft.spec import Finetune
from graft.store import Store
from graft.sweep.plan import Trial
from graft.sweep.results import TrialEpoch, better, trial_epochs
from graft.training.attempt import stops, training_data
from graft.training.kept import naming_of, reads_of, worth_keeping
from graft.training.lanes import LanesDone, train_lanes
from graft.training.loop import Data, EpochDone, TrainingState, finetune
from graft.training.plan import Plan, make_plan
from graft.training.prepare import Assembly, assemble
from graft.training.ranks import Ranks
from graft.training.runs import Epoch


@dataclass(frozen=True)
class Compared:
    """What trials are compared by."""

    metric: str
    mode: str
    weights: str
    """`best`: the best epoch's are kept; `last`: the last one's."""


@dataclass(frozen=True)
class Progress:
    """How a trial stands after an epoch."""

    epochs: tuple[TrialEpoch, ...]
    """All so far, of finite numbers."""
    diverged: str | None
    """Which number of the last epoch was not finite."""
    checkpoint: str | None
    """Store key of the best epoch's tail."""
    ended: bool
    """Whether the trial is over: all epochs, early stopping, or it diverged."""
    trunk_images: int = 0
    """Views of images that it sent through a frozen trunk itself."""


Before = tuple[tuple[TrialEpoch, ...], str | None]
"""A trial's epochs that are done already, and the store key of the best one's tail."""


class Bench:
    """What trials in one process share: the store, this worker, and activations once opened."""

    def __init__(self, store: Store, sweep_id: str, compared: Compared, ranks: Ranks):
        self.store = store
        self.ranks = ranks
        self._sweep_id = sweep_id
        self._compared = compared
        self._opened: dict[tuple[str, str, str], Activations | None] = {}

    def set_up(self, spec: Finetune) -> tuple[Assembly, TrunkChain, Data]:
        """Build a trial's model; its data read activations where the store has them."""
        assembly = assemble(self.store, spec)
        assembly.model.to(self.ranks.device)
        chain = trunk_chain(assembly.model, assembly.contract)
        data = training_data(assembly, spec)
        if spec.not_kept:
            return assembly, chain, data
        naming = naming_of(spec, chain, self.ranks.device.type)
        # What another trunk's trials had mapped: evicted files are free once nobody maps them.
        folders = {f"activations/{digest}" for digest in chain.digests}
        self._opened = {
            where: found
            for where, found in self._opened.items()
            if where[0].rpartition("/")[0] in folders
        }

        def kept(split: str, view: int, depth: int) -> Activations | None:
            if not depth:
                return None
            key = naming.key(depth, view)
            where = (key.folder, assembly.dataset.manifest.version, split)
            if where not in self._opened:
                self._opened[where] = find(self.store, assembly.dataset, split, key)
            return self._opened[where]

        return assembly, chain, replace(data, cached=kept)

    def fill(self, spec: Finetune, sharing: int) -> int:
        """See to it that the store has a trial's activations; return the images computed.

        For trials that nobody knew beforehand, of which about `sharing` read the same. Several
        processes that want the same at once compute it once.
        """
        if spec.not_kept:
            return 0
        assembly, chain, data = self.set_up(spec)
        naming = naming_of(spec, chain, self.ranks.device.type)
        reads = {
            depth: {at: count * sharing for at, count in times.items()}
            for depth, times in reads_of(spec, assembly.dataset, assembly.plan, 0).items()
            if depth
        }
        wanted = worth_keeping(
            self.store, spec.cache, reads, assembly.model, data, naming, lambda depth, told: None
        )
        run = run_here(
            self.store, assembly.model, data.loader, data.preprocess, device=self.ranks.device
        )
        self._opened.clear()
        return fill(self.store, data.dataset, naming, wanted, run).trunk_forwards

    def best_so_far(self, trial: Trial, before: "Before" = ((), None)) -> "BestTail":
        """Return what keeps the best epoch's tail of a trial, some of whose epochs are done."""
        return BestTail(self.store, self._sweep_id, trial.number, self._compared, before)


class BestTail:
    """Follows a trial's epochs and keeps the tail of the best one in the store."""

    def __init__(
        self, store: Store, sweep_id: str, number: int, compared: Compared, before: Before
    ):
        self._store = store
        self._folder = f"sweeps/{sweep_id}/tails"
        self._number = number
        self._compared = compared
        self._kept, self.checkpoint = before
        self._best: TrialEpoch | None = None
        for epoch in self._kept:
            if better(epoch, self._best, compared.metric, compared.mode):
                self._best = epoch
        self._older: str | None = None
        self._inherited = self.checkpoint
        """Another trial may have it too: not to be deleted."""

    def follow(
        self,
        epoch: int,
        train: Mapping[str, Any],
        val: Mapping[str, Any],
        tail: Mapping[str, Tensor],
    ) -> tuple[tuple[TrialEpoch, ...], str | None]:
        """Take in an epoch; return all of finite numbers, and what of this one was not."""
        found, diverged = trial_epochs([(epoch, train, val)])
        self._kept += found
        compared = self._compared
        if found and (
            compared.weights == "last"
            or better(found[0], self._best, compared.metric, compared.mode)
        ):
            self._best = found[0]
            ref = self._store.put(
                self._folder, f"{self._number}.safetensors", tensors_to_bytes(tail)
            )
            older, self._older = self._older, self.checkpoint
            self.checkpoint = f"{self._folder}/{ref.name}"
            # Not the one before: the driver may stop this trial without having heard of the new.
            if older and older not in (self._older, self.checkpoint, self._inherited):
                self._store.delete(older)
        return self._kept, diverged


def train_trial(
    bench: Bench,
    trial: Trial,
    start: TrainingState | None = None,
    before: Before = ((), None),
) -> Iterator[tuple[Progress, TrainingState]]:
    """Train a trial; yield how it stands after every epoch.

    Raises:
        RunFailed: the trunk moved.
    """
    spec = trial.spec
    assembly, chain, data = bench.set_up(spec)
    best = bench.best_so_far(trial, before)
    history = [Epoch(epoch=e.epoch, train=e.train, val=dict(e.val)) for e in before[0]]
    events = finetune(assembly.model, data, spec.train, assembly.plan, bench.ranks, start)
    for event in events:
        if not isinstance(event, EpochDone):
            continue
        tail = event.state.average or event.state.tail
        epochs, diverged = best.follow(event.epoch, event.train, event.val, tail)
        if not diverged:
            history.append(Epoch(epoch=event.epoch, train=event.train, val=event.val))
        ended = bool(
            diverged
            or event.epoch == spec.train.epochs
            or stops(history, spec.train.early_stopping)
        )
        if ended:
            _require_frozen(assembly, chain, assembly.plan.depth(event.epoch))
        forwards = data.loader.rendered if assembly.plan.depth(1) else 0
        yield Progress(epochs, diverged, best.checkpoint, ended, forwards), event.state
        if ended:
            return


def train_together(
    bench: Bench,
    trials: Sequence[Trial],
    post: Callable[[Trial, TrialEpoch | None], object],
    seconds: float | None = None,
) -> list[tuple[Progress, float]]:
    """Train trials whose heads are lanes of one computation; return each with its seconds.

    `post` is told of every finite epoch of each, and with None that it begins. All stop after
    the epoch in which `seconds` are spent.
    """
    began = time.monotonic()
    assembly, chain, data = bench.set_up(trials[0].spec)
    recipes = [(_plan_of(assembly, trial.spec), trial.spec.train) for trial in trials]
    followers = [bench.best_so_far(trial) for trial in trials]
    diverged: list[str | None] = [None] * len(trials)
    epochs: list[tuple[TrialEpoch, ...]] = [()] * len(trials)
    for trial in trials:
        post(trial, None)
    over = False
    for done in train_lanes(assembly.model, data, recipes, bench.ranks.device):
        for lane, trial in enumerate(trials):
            if done.epoch == 0 or diverged[lane]:
                continue
            epochs[lane], diverged[lane] = _follow(followers[lane], done, lane)
            if not diverged[lane]:
                post(trial, epochs[lane][-1])
        over = done.epoch == trials[0].spec.train.epochs
        if over or (seconds is not None and time.monotonic() - began > seconds and done.epoch):
            break
    _require_frozen(assembly, chain, assembly.model.depth)
    share = (time.monotonic() - began) / len(trials)
    return [
        (
            Progress(
                epochs[lane],
                diverged[lane],
                followers[lane].checkpoint,
                over,
                data.loader.rendered if lane == 0 else 0,  # one pass for all of them
            ),
            share,
        )
        for lane in range(len(trials))
    ]


def _follow(
    follower: BestTail, done: LanesDone, lane: int
) -> tuple[tuple[TrialEpoch, ...], str | None]:
    return follower.follow(done.epoch, done.train[lane], done.val[lane], done.tails[lane])


def _plan_of(assembly: Assembly, spec: Finetune) -> Plan:
    return make_plan(assembly.model, spec.backbone, spec.train)


def _require_frozen(assembly: Assembly, chain: TrunkChain, depth: int) -> None:
    """Hash the trunk again; any drift fails the trial."""
    moved = chain.first_moved(trunk_chain(assembly.model.cut(depth), assembly.contract))
    if moved is not None:
        raise RunFailed(f"'{moved}' is frozen and changed during training; the trial is void")


def one_process(device: torch.device) -> Ranks:
    """Return this process as the only worker, of a group that needs neither port nor file."""
    from torch import distributed

    if not distributed.is_initialized():
        meet = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=meet, rank=0, world_size=1)
    return Ranks.current(device)
