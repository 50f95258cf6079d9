"""One attempt at a run, as each of its workers goes through it; plain torch, no Ray.

Every worker drives the loop; the first one also claims the attempt, commits a
checkpoint after each epoch, and at the end registers the model and publishes the result.
"""

import math
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from graft.backbones.memory import keep_freed_memory
from graft.backbones.model import TransferModel
from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.data.budget import choose_images
from graft.data.loader import ImageLoader
from graft.errors import ResourceError, RunFailed
from graft.spec import Contract, EarlyStopping, Finetune
from graft.store import Store
from graft.training.checkpoint import latest_checkpoint, load_state
from graft.training.events import Event, Stalled, Started, Untrained
from graft.training.kept import keep_activations, nothing
from graft.training.lead import Lead
from graft.training.loop import Data, EpochDone, StepDone, Unfreezing, finetune
from graft.training.pace import Pace, Watchdog
from graft.training.prepare import Assembly, assemble
from graft.training.ranks import Ranks
from graft.training.runs import Epoch, Head, claim_attempt, read_spec


def run_attempt(
    store: Store, run: str, ranks: Ranks, post: Callable[[Event], object], started: float
) -> None:
    """Train a recorded run to its end, as one of `ranks`, from its last checkpoint.

    Args:
        store: where the run is recorded.
        run: the run's id.
        ranks: this worker among the others.
        post: told what happens: by the first worker, and by any that stalls.
        started: when the user's command began, in seconds since the epoch.

    Raises:
        ResourceError: a node does not see a directory store.
        RunFailed: overtaken by a newer attempt, or the trunk is not what it was.
    """
    _require_store(store, run, ranks)
    spec = read_spec(store, run)
    torch.set_num_threads(spec.scaling.cpus_per_worker)
    keep_freed_memory()
    if ranks.device.type == "cuda":
        repeat_exactly()
    head: Head = ranks.from_first(claim_attempt(store, run) if ranks.rank == 0 else None)
    # One worker looks: another could meet a checkpoint that was committed meanwhile.
    checkpoint = ranks.from_first(latest_checkpoint(store, run) if ranks.rank == 0 else None)
    assembly = assemble(store, spec)
    model = assembly.model.to(ranks.device)
    chain = trunk_chain(model, assembly.contract)
    if checkpoint and checkpoint.trunk_digest != chain.digests[checkpoint.freeze]:
        raise RunFailed(
            f"{run}: the trunk built from the recorded weights has digest "
            f"{chain.digests[checkpoint.freeze][:12]}, the checkpoint was made on "
            f"{checkpoint.trunk_digest[:12]}; the run cannot go on from it"
        )
    plan = assembly.plan
    lead = Lead(store, run, head, assembly, chain, post) if ranks.rank == 0 else None
    done = checkpoint.epoch if checkpoint else 0
    if lead:
        post(Started(head.attempt, done, plan.stages, chain.digests[-1]))
    data = training_data(assembly, spec)
    kept = keep_activations(store, spec, assembly, chain, data, ranks, done, post)
    data = replace(data, cached=kept)
    history = list(checkpoint.history) if checkpoint else []
    initial = checkpoint.initial if checkpoint else {}
    watchdog = Watchdog(spec.scaling.stall_timeout_s, lambda s: post(Stalled(ranks.rank, s)))
    pace = Pace()
    start = load_state(store, checkpoint) if checkpoint else None
    stopping = spec.train.early_stopping
    events = finetune(model, data, spec.train, plan, ranks, start)
    try:
        while not stops(history, stopping) and (event := next(events, None)):
            watchdog.alive()
            if isinstance(event, StepDone):
                pace.step(event)
                if lead:
                    lead.stepped(event, pace)
            elif isinstance(event, Untrained):
                initial = event.val
                if lead:
                    post(event)
                pace.begin_epoch()
            elif isinstance(event, Unfreezing):
                _prove_frozen(run, event.model, assembly.contract, chain, ranks)
            elif isinstance(event, EpochDone):
                _require_finite(run, event)
                history.append(Epoch(epoch=event.epoch, train=event.train, val=event.val))
                if lead:
                    checkpoint = lead.finish_epoch(event, initial, checkpoint, pace)
                watchdog.alive()
                pace.begin_epoch()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunFailed(
            f"{run}: a single image reached a trained BatchNorm layer whose map is one pixel, "
            "which has no statistics. Choose another train.batch_size, so that no worker gets "
            f"one image of the last batch of {len(data.train)}, or a larger preprocess.crop"
        ) from error
    finally:
        watchdog.stop()
    frozen = model.cut(plan.depth(len(history)))
    _prove_frozen(run, frozen, assembly.contract, chain, ranks)
    if lead and checkpoint:
        lead.finish(spec, checkpoint, pace, started)


def training_data(assembly: Assembly, spec: Finetune) -> Data:
    """Return the images of an assembly as the loop wants them."""
    chosen = choose_images(assembly.dataset, spec.dataset)
    return Data(
        assembly.dataset,
        ImageLoader(assembly.dataset, assembly.contract, spec.augment, spec.loader),
        chosen.train,
        chosen.val,
        chosen.val_split,
        assembly.dataset.manifest.classes,
        assembly.contract,
        spec.augment,
        nothing,
    )


def stops(history: Sequence[Epoch], stopping: EarlyStopping | None) -> bool:
    """Whether validation has not got better for as long as `stopping` bears."""
    if stopping is None or not history:
        return False
    sign = 1 if stopping.metric == "accuracy" else -1
    best, since = sign * history[0].val[stopping.metric], 0
    for epoch in history[1:]:
        since += 1
        value = sign * epoch.val[stopping.metric]
        if value > best + stopping.min_delta:
            best, since = value, 0
    return since >= stopping.patience


def _require_finite(run: str, done: EpochDone) -> None:
    if not math.isfinite(done.train["loss"] + done.val["loss"]):
        raise RunFailed(
            f"{run}: the loss of epoch {done.epoch} is not finite; training diverged. "
            "Lower train.optimizer.lr"
        )


def repeat_exactly() -> None:
    """Have a GPU give the same float32 numbers every time, and those of a CPU within rounding."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False


def _require_store(store: Store, run: str, ranks: Ranks) -> None:
    """Refuse a directory store that some worker's node does not see."""
    blind = None
    if not store.exists(f"runs/{run}/spec.yaml"):
        blind = socket.gethostname()
    nodes = sorted({node for node in ranks.gather(blind) if node})
    if nodes:
        raise ResourceError(
            f"the store {store.uri} is not visible on node {', '.join(nodes)}; "
            "use s3://..., or a directory that every node mounts at the same path"
        )


def _prove_frozen(
    run: str, model: TransferModel, contract: Contract, chain: TrunkChain, ranks: Ranks
) -> None:
    """Hash the trunk again on every worker; any drift fails the run."""
    moved = chain.first_moved(trunk_chain(model, contract))
    for rank, name in enumerate(ranks.gather(moved)):
        if name is not None:
            stage = model.stages.names[model.stage_of(name)]
            raise RunFailed(
                f"{run}: '{name}' of frozen stage '{stage}' changed during training on worker "
                f"{rank}; the run is void"
            )
