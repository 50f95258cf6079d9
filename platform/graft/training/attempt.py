"""One attempt at a run, as each of its workers goes through it; plain torch, no Ray.

Every worker drives the loop; the first one also records the run, see `run_recorder`.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from graft.activations.cache import ActivationCache
from graft.activations.compute import TrunkSetup
from graft.activations.key import key_scheme
from graft.activations.lookup import NO_ACTIVATIONS
from graft.backbones.transfer_model import TransferModel
from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.data.epoch_order import FULL, BlockShuffle, Shuffle
from graft.data.loader import ImageLoader
from graft.data.read_ahead import BLOCK_BYTES
from graft.data.subset import choose_subset
from graft.errors import ResourceError, RunFailed
from graft.registry import Mover
from graft.spec import Finetune
from graft.store import Store
from graft.training.attempt_pointer import AttemptPointer, claim_attempt
from graft.training.best_epoch_and_stopping import is_over, not_finite
from graft.training.checkpoint import Checkpoint, latest_checkpoint, load_state
from graft.training.events import Event, Note, Stalled, Started
from graft.training.frozen_proof import prove_frozen
from graft.training.loop import EpochDone, TrainingData, Unfreezing, finetune
from graft.training.pace_and_watchdog import Watchdog
from graft.training.prepare_run import PreparedRun, assemble, enlargement
from graft.training.run_activations import cache_for_run, reads_of
from graft.training.run_recorder import RunRecorder
from graft.training.run_records import Epoch, read_spec, run_folder
from graft.training.run_shuffle import shuffle_of_run
from graft.training.worker_group import Ranks


def run_attempt(
    store: Store,
    run: str,
    ranks: Ranks,
    post: Callable[[Event], object],
    started: float,
    mover: Mover | None = None,
) -> None:
    """Train a recorded run to its end, as one of `ranks`, from its last checkpoint.

    Args:
        store: where the run is recorded.
        run: the run's id.
        ranks: this worker among the others.
        post: called with what happens, by the first worker and by any that stalls.
        started: when the user's command began, in seconds since the epoch.
        mover: who moves the alias that the spec names; None: this machine's user.

    Raises:
        ResourceError: a node does not see a directory store.
        RunFailed: overtaken by a newer attempt, the trunk is not what it was, or training
            diverged.
    """
    _require_store(store, run, ranks)
    spec = read_spec(store, run)
    pointer: AttemptPointer = ranks.from_first(
        claim_attempt(store, run_folder(run)) if ranks.rank == 0 else None
    )
    # One worker looks: another could meet a checkpoint that was committed meanwhile.
    last = ranks.from_first(latest_checkpoint(store, run) if ranks.rank == 0 else None)
    prepared = assemble(store, spec)
    chain = trunk_chain(prepared.model.to(ranks.device), prepared.contract)
    _require_same_trunk(run, last, chain)
    recorder = None
    if ranks.rank == 0:
        recorder = RunRecorder(store, run, spec, pointer, prepared, chain, post, last)
        finished = last.epoch if last else 0
        post(Started(pointer.attempt, finished, prepared.plan.stages, chain.digests[-1]))
        if text := enlargement(prepared.dataset.manifest, prepared.contract):
            post(Note(text))
    _Worker(store, run, spec, ranks, post, prepared, chain, last, recorder).train()
    if recorder:
        recorder.finish(started, mover or Mover.here("python"))


@dataclass(frozen=True)
class _Worker:
    """One worker of an attempt, with all that it trains in memory."""

    store: Store
    run: str
    spec: Finetune
    ranks: Ranks
    """This worker among the others."""
    post: Callable[[Event], object]
    prepared: PreparedRun
    """Its model is on this worker's device."""
    chain: TrunkChain
    """Digests of the trunk."""
    last: Checkpoint | None
    """The checkpoint that the attempt goes on from; None: it begins."""
    recorder: RunRecorder | None
    """Of the first worker."""

    def train(self) -> None:
        """Train the epochs that are left, and prove after each depth that no frozen bit moved.

        Raises:
            RunFailed: as `run_attempt`.
        """
        spec, ranks, last = self.spec, self.ranks, self.last
        model, plan = self.prepared.model, self.prepared.plan
        data = self._data()
        history = list(last.history) if last else []
        watchdog = Watchdog(spec.scaling.stall_timeout_s, self._stalled)
        start = load_state(self.store, last) if last else None  # takes as long as the network does
        with watchdog:
            events = finetune(model, data, spec.train, plan, ranks, start)
            while not is_over(history, spec.train):
                if (event := next(events, None)) is None:
                    break
                watchdog.alive()
                if isinstance(event, Unfreezing):
                    self._prove_frozen(event.model)
                elif isinstance(event, EpochDone):
                    _require_finite(self.run, event)
                    history.append(Epoch(epoch=event.epoch, train=event.train, val=event.val))
                if self.recorder:
                    self.recorder.follow(event)
                    watchdog.alive()
        self._prove_frozen(model.cut(plan.depth(len(history))))

    def _data(self) -> TrainingData:
        """Return what is trained and validated on; what is worth caching is cached now."""
        prepared, spec = self.prepared, self.spec
        shuffle = shuffle_of_run(
            self.store, self.run, spec, prepared.dataset, self.ranks, self.post, self.last
        )
        data = training_data(prepared, spec, shuffle)
        keys = key_scheme(spec, self.chain, self.ranks.device)
        cache = ActivationCache(self.store, data.dataset, keys)
        setup = TrunkSetup(prepared.model, data.loader, data.preprocess)
        reads = reads_of(spec, data.dataset, prepared.plan, self.last.epoch if self.last else 0)
        cached = cache_for_run(spec, cache, setup, reads, self.ranks, self.post, self.run)
        return replace(data, cached=cached)

    def _stalled(self, seconds: float) -> None:
        self.post(Stalled(self.ranks.rank, seconds))

    def _prove_frozen(self, model: TransferModel) -> None:
        contract = self.prepared.contract
        prove_frozen(f"run {self.run}", model, contract, self.chain, self.ranks)


def training_data(prepared: PreparedRun, spec: Finetune, shuffle: Shuffle = FULL) -> TrainingData:
    """Return what the loop trains and validates on; it reads images until `cached` is replaced.

    `shuffle`: of training, for those who train.
    """
    subset = choose_subset(prepared.dataset, spec.dataset)
    blocks = shuffle.block_bytes if isinstance(shuffle, BlockShuffle) else BLOCK_BYTES
    return TrainingData(
        prepared.dataset,
        ImageLoader(prepared.dataset, prepared.contract, spec.augment, spec.loader, blocks),
        subset.train,
        subset.val,
        subset.val_split,
        prepared.dataset.manifest.classes,
        prepared.contract,
        spec.augment,
        NO_ACTIVATIONS,
        shuffle,
    )


def _require_finite(run: str, done: EpochDone) -> None:
    losses = {"loss": done.train["loss"]}, {"loss": done.val["loss"]}
    if not_finite(done.epoch, *losses):  # a run has never failed of another metric
        raise RunFailed(
            f"{run}: the loss of epoch {done.epoch} is not finite; training diverged. "
            "Lower train.optimizer.lr"
        )


def _require_store(store: Store, run: str, ranks: Ranks) -> None:
    """Refuse a directory store that some worker's node does not see."""
    visible = store.exists(f"runs/{run}/spec.yaml")
    blind_nodes = ranks.gather(None if visible else socket.gethostname())
    if nodes := sorted({node for node in blind_nodes if node}):
        raise ResourceError(
            f"the store {store.uri} is not visible on node {', '.join(nodes)}; "
            "use s3://..., or a directory that every node mounts at the same path"
        )


def _require_same_trunk(run: str, last: Checkpoint | None, chain: TrunkChain) -> None:
    """Refuse to go on from a checkpoint that was made on another trunk."""
    if last and last.trunk_digest != chain.digests[last.freeze]:
        raise RunFailed(
            f"{run}: the trunk built from the recorded weights has digest "
            f"{chain.digests[last.freeze][:12]}, the checkpoint was made on "
            f"{last.trunk_digest[:12]}; the run cannot go on from it"
        )
