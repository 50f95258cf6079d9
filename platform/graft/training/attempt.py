"""One attempt at a run, as each of its workers goes through it; plain torch, no Ray.

Every worker drives the loop; the first one also records the run, see `run_recorder`.
"""

import socket
from collections.abc import Callable
from dataclasses import replace

from graft.activations.cache import ActivationCache
from graft.activations.compute import TrunkSetup
from graft.activations.key import key_scheme
from graft.activations.lookup import NO_ACTIVATIONS
from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.data.loader import ImageLoader
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
    model, plan = prepared.model.to(ranks.device), prepared.plan
    chain = trunk_chain(model, prepared.contract)
    _require_same_trunk(run, last, chain)
    recorder = None
    finished = last.epoch if last else 0
    if ranks.rank == 0:
        recorder = RunRecorder(store, run, pointer, prepared, chain, post, last)
        post(Started(pointer.attempt, finished, plan.stages, chain.digests[-1]))
        if text := enlargement(prepared):
            post(Note(text))
    data = training_data(prepared, spec)
    cache = ActivationCache(store, data.dataset, key_scheme(spec, chain, ranks.device))
    setup = TrunkSetup(model, data.loader, data.preprocess)
    reads = reads_of(spec, data.dataset, plan, finished)
    data = replace(data, cached=cache_for_run(spec, cache, setup, reads, ranks, post, run))
    history = list(last.history) if last else []
    watchdog = Watchdog(spec.scaling.stall_timeout_s, lambda s: post(Stalled(ranks.rank, s)))
    start = load_state(store, last) if last else None  # takes as long as the network does
    with watchdog:
        events = finetune(model, data, spec.train, plan, ranks, start)
        while not is_over(history, spec.train):
            if (event := next(events, None)) is None:
                break
            watchdog.alive()
            if isinstance(event, Unfreezing):
                prove_frozen(f"run {run}", event.model, prepared.contract, chain, ranks)
            elif isinstance(event, EpochDone):
                _require_finite(run, event)
                history.append(Epoch(epoch=event.epoch, train=event.train, val=event.val))
            if recorder:
                recorder.follow(event)
                watchdog.alive()
    prove_frozen(f"run {run}", model.cut(plan.depth(len(history))), prepared.contract, chain, ranks)
    if recorder:
        recorder.finish(spec, started, mover or Mover.here("python"))


def training_data(prepared: PreparedRun, spec: Finetune) -> TrainingData:
    """Return what the loop trains and validates on; it reads images until `cached` is replaced."""
    subset = choose_subset(prepared.dataset, spec.dataset)
    return TrainingData(
        prepared.dataset,
        ImageLoader(prepared.dataset, prepared.contract, spec.augment, spec.loader),
        subset.train,
        subset.val,
        subset.val_split,
        prepared.dataset.manifest.classes,
        prepared.contract,
        spec.augment,
        NO_ACTIVATIONS,
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
