"""The end of a sweep: the best trial's weights become a model version, and the result is told."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.trunk import trunk_chain
from graft.errors import StoreError
from graft.registry import ModelVersion
from graft.spec import Finetune, Register, Retrain, Sweep
from graft.store import Store, sha256
from graft.sweep.ledger import Ledger
from graft.sweep.results import (
    BestTrial,
    SweepResult,
    TrialRecord,
    best_trial,
    count_states,
    publish_sweep,
)
from graft.training.average import copy_into
from graft.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_state,
    read_checkpoint,
)
from graft.training.finish import register_model
from graft.training.plan import make_plan
from graft.training.prepare import assemble
from graft.training.runs import Epoch, Result, create_run

Train = Callable[[str], Result]
"""Trains a recorded run to its end."""


def finish_sweep(
    store: Store,
    sweep_id: str,
    sweep: Sweep,
    ledger: Ledger,
    specs: Callable[[TrialRecord], Finetune],
    train: Train,
) -> SweepResult:
    """Take the best trial as it is, or train it again; register it; publish the result."""
    trials = [ledger.records[number] for number in sorted(ledger.records)]
    search = sweep.search
    best = best_trial(trials, search.metric, search.mode)
    run, model, metrics = None, None, dict[str, dict[str, Any]]()
    if best:
        record = next(r for r in trials if r.number == best.number)
        spec = specs(record)
        if isinstance(sweep.best, Retrain):
            # The id follows from the sweep's: who comes back goes on with the same run.
            again = train(create_run(store, retrained(spec, sweep.best), f"{sweep_id}-best"))
            run = again.run
            metrics = {part: again.metrics[part] for part in ("train", "val")}
            if sweep.register_:
                target = sweep.register_
                model = _register_run(store, sweep_id, retrained(spec, sweep.best), target, again)
        else:
            run = record.run
            metrics = _metrics(record, best)
            if sweep.register_:
                model = _register(store, sweep_id, spec, sweep.register_, record, best).ref
    result = SweepResult(
        sweep=sweep_id,
        metric=search.metric,
        mode=search.mode,
        best=best,
        run=run,
        model=model,
        metrics=metrics,
        seconds=round(ledger.seconds, 3),
        states=count_states(trials),
        trunk_images=ledger.trunk_images,
        cached_images=ledger.kept_images,
        trials=tuple(trials),
        created=datetime.now(UTC).isoformat(),
    )
    publish_sweep(store, result)
    return result


def retrained(spec: Finetune, best: Retrain) -> Finetune:
    """Return the spec of the run that trains the best trial once more."""
    train = spec.train.model_copy(update={"epochs": best.epochs or spec.train.epochs})
    return spec.model_copy(update={"train": train})


def _metrics(record: TrialRecord, best: BestTrial) -> dict[str, dict[str, Any]]:
    epoch = next(epoch for epoch in record.epochs if epoch.epoch == best.epoch)
    return {"train": dict(epoch.train), "val": dict(epoch.val)}


def _register(
    store: Store,
    sweep_id: str,
    spec: Finetune,
    target: Register,
    record: TrialRecord,
    best: BestTrial,
) -> ModelVersion:
    """Register the weights that a trial kept."""
    assembly = assemble(store, spec)
    plan = make_plan(assembly.model, spec.backbone, spec.train)
    number = best.epoch if target.weights == "best" else record.epochs[-1].epoch
    tail = _tail(store, record, target)
    assembly = assemble(store, spec, plan.depth(number))
    # Of the initial weights, which is what the trunk still has.
    chain = trunk_chain(assembly.model, assembly.contract)
    copy_into(assembly.model.network.state_dict(), tail)
    epoch = next(e for e in record.epochs if e.epoch == number)
    return register_model(
        store,
        record.run or f"{sweep_id}/{record.number}",
        spec,
        target,
        assembly,
        chain,
        Epoch(epoch=number, train=dict(epoch.train), val=dict(epoch.val)),
        sweep_id,
    )


def _register_run(
    store: Store, sweep_id: str, spec: Finetune, target: Register, result: Result
) -> str:
    """Register what a run trained; return NAME@VERSION."""
    last = latest_checkpoint(store, result.run)
    if last is None:
        raise StoreError(f"{result.run} is finished, and none of its checkpoints is there")
    tail, chosen = _tail_of_run(store, last, target)
    assembly = assemble(store, spec, chosen.freeze)
    chain = trunk_chain(assembly.model, assembly.contract)
    copy_into(assembly.model.network.state_dict(), tail)
    epoch = chosen.history[-1]
    return register_model(store, result.run, spec, target, assembly, chain, epoch, sweep_id).ref


def _tail_of_run(
    store: Store, last: Checkpoint, target: Register
) -> tuple[dict[str, Tensor], Checkpoint]:
    """Return the weights that are wanted of a run, and the checkpoint that has them."""
    best = target.weights == "best" and last.best
    chosen = read_checkpoint(store, best) if best else last
    state = load_state(store, chosen)
    return state.average or state.tail, chosen


def _tail(store: Store, record: TrialRecord, target: Register) -> dict[str, Tensor]:
    if record.checkpoint is None:
        raise StoreError(f"trial {record.number} kept no weights, though it is the best")
    if record.run:  # of several workers: its checkpoints are those of `graft train`
        return _tail_of_run(store, read_checkpoint(store, record.checkpoint), target)[0]
    data = store.read(record.checkpoint).data
    if sha256(data) not in record.checkpoint:
        raise StoreError(f"{store.uri}/{record.checkpoint} is damaged: its SHA-256 is another")
    tail: dict[str, Tensor] = load_tensors(data)
    return tail
