"""One attempt at a run, as each of its workers goes through it; plain torch, no Ray.

Every worker drives the loop; the first one also records the run, see `run_recorder`.
"""

import contextlib
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
from graft.errors import Interrupted, ResourceError, RunFailed
from graft.registry import Mover
from graft.spec import Finetune
from graft.store import Store
from graft.training.attempt_pointer import AttemptPointer, claim_attempt
from graft.training.best_epoch_and_stopping import is_over, not_finite
from graft.training.checkpoint import (
    Checkpoint,
    find_position,
    latest_checkpoint,
    load_state,
    load_step_state,
)
from graft.training.checkpoint_clock import CheckpointClock, sigterm_stops
from graft.training.events import Event, Note, Notice, Stalled, Started
from graft.training.frozen_proof import prove_frozen
from graft.training.loop import (
    EpochDone,
    InsideEpoch,
    LoopEvent,
    TrainingData,
    TrainingState,
    Unfreezing,
    finetune,
)
from graft.training.pace_and_watchdog import Watchdog
from graft.training.prepare_run import PreparedRun, assemble, enlargement
from graft.training.run_activations import cache_for_run, reads_of
from graft.training.run_recorder import RunRecorder
from graft.training.run_records import Epoch, read_spec, run_folder
from graft.training.run_shuffle import shuffle_of_run
from graft.training.stalls import record_stall
from graft.training.step_checkpoint import StepCheckpoint
from graft.training.worker_group import Ranks


def run_attempt(
    store: Store,
    run: str,
    ranks: Ranks,
    post: Callable[[Event], object],
    started: float,
    mover: Mover | None = None,
    notice: Callable[[], Notice] | None = None,
) -> None:
    """Train a recorded run to its end, as one of `ranks`, from its last checkpoint.

    Args:
        store: where the run is recorded.
        run: the run's id.
        ranks: this worker among the others.
        post: called with what happens, by the first worker and by any that stalls.
        started: when the user's command began, in seconds since the epoch.
        mover: who moves the alias that the spec names; None: this machine's user.
        notice: says what this worker was told about its end, about once a second; None: SIGTERM
            says it.

    Raises:
        Interrupted: it was told to stop, and has made a checkpoint.
        ResourceError: a node does not see a directory store.
        RunFailed: overtaken by a newer attempt, the trunk is not what it was, or training
            diverged.
    """
    _require_store(store, run, ranks)
    spec = read_spec(store, run)
    pointer: AttemptPointer = ranks.from_first(
        claim_attempt(store, run_folder(run)) if ranks.rank == 0 else None
    )
    last, inside, start = _where_to_go_on(store, run, ranks, post)
    prepared = assemble(store, spec)
    chain = trunk_chain(prepared.model.to(ranks.device), prepared.contract)
    _require_same_trunk(run, inside or last, chain)
    recorder = None
    if ranks.rank == 0:
        recorder = RunRecorder(store, run, spec, pointer, prepared, chain, post, last, inside)
        finished, stages = last.epoch if last else 0, prepared.plan.stages
        place = (inside.done, inside.steps) if inside else (0, 0)
        post(Started(pointer.attempt, finished, stages, chain.digests[-1], *place))
        if text := enlargement(prepared.dataset.manifest, prepared.contract):
            post(Note(text))
    attempt = pointer.attempt
    worker = _Worker(store, run, attempt, spec, ranks, post, prepared, chain, last, start, recorder)
    with sigterm_stops() if notice is None else contextlib.nullcontext(notice) as ask:
        try:
            worker.train(CheckpointClock(spec.train.checkpoint, ranks, ask))
        finally:
            if recorder:
                recorder.settle()
    if recorder:
        recorder.finish(started, mover or Mover.here("python"))


def _where_to_go_on(
    store: Store, run: str, ranks: Ranks, post: Callable[[Event], object]
) -> tuple[Checkpoint | None, StepCheckpoint | None, TrainingState | None]:
    """Return a run's last checkpoint, the one inside the epoch after it, and the furthest's state.

    The first worker alone looks: another could meet a checkpoint that was committed meanwhile.
    """
    last = inside = state = None
    if ranks.rank == 0:
        last = latest_checkpoint(store, run)
        epochs = last.epoch if last else 0
        if position := find_position(store, run, epochs, lambda text: post(Note(text))):
            inside, state = position.checkpoint, position.state
    last, inside = ranks.from_first((last, inside))
    if inside and state is None:
        state = load_step_state(store, inside)
    elif last and inside is None:
        state = load_state(store, last)
    return last, inside, state


@dataclass(frozen=True)
class _Worker:
    """One worker of an attempt, with all that it trains in memory."""

    store: Store
    run: str
    attempt: int
    spec: Finetune
    ranks: Ranks
    """This worker among the others."""
    post: Callable[[Event], object]
    prepared: PreparedRun
    """Its model is on this worker's device."""
    chain: TrunkChain
    """Digests of the trunk."""
    last: Checkpoint | None
    """The last epoch's checkpoint; None: there is none yet."""
    start: TrainingState | None
    """What the attempt goes on from, after that epoch or inside the next; None: it begins."""
    recorder: RunRecorder | None
    """Of the first worker."""

    def train(self, clock: CheckpointClock) -> None:
        """Train the epochs that are left, and prove after each depth that no frozen bit moved.

        Raises:
            Interrupted: as `run_attempt`.
            RunFailed: as `run_attempt`.
        """
        spec, ranks, last = self.spec, self.ranks, self.last
        model, plan = self.prepared.model, self.prepared.plan
        data = self._data()
        history = list(last.history) if last else []
        watchdog = Watchdog(spec.scaling.stall_timeout_s, self._stalled)
        with watchdog:
            events = finetune(model, data, spec.train, plan, ranks, self.start, clock)
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
                if isinstance(event, EpochDone):
                    clock.restart()
                if not is_over(history, spec.train):
                    self._stop_if_told(event, clock)
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

    def _stop_if_told(self, event: LoopEvent, clock: CheckpointClock) -> None:
        """End where there is a checkpoint, if workers were told to.

        Raises:
            Interrupted: they were.
        """
        inside = isinstance(event, InsideEpoch) and event.last
        if inside or (isinstance(event, EpochDone) and clock.told_to_stop()):
            raise Interrupted(
                f"stopped; a checkpoint is committed. Go on with: graft runs resume {self.run}"
            )

    def _stalled(self, seconds: float) -> None:
        self.post(Stalled(self.ranks.rank, seconds))
        record_stall(self.store, self.run, self.attempt, self.ranks.rank, seconds)

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


def _require_same_trunk(
    run: str, last: Checkpoint | StepCheckpoint | None, chain: TrunkChain
) -> None:
    """Refuse to go on from a checkpoint that was made on another trunk."""
    if last and last.trunk_digest != chain.digests[last.freeze]:
        raise RunFailed(
            f"{run}: the trunk built from the recorded weights has digest "
            f"{chain.digests[last.freeze][:12]}, the checkpoint was made on "
            f"{last.trunk_digest[:12]}; the run cannot go on from it"
        )
