"""The end of a sweep: the best trial's weights become a model version, and the result is told."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.errors import RunFailed, StoreError
from graft.spec import Finetune, Register, Retrain, Sweep
from graft.store import Store, sha256
from graft.sweep.ledger import Ledger
from graft.sweep.results import (
    BestTrial,
    SweepResult,
    TrialEpoch,
    TrialRecord,
    best_trial,
    count_states,
    publish_sweep,
)
from graft.training.average import copy_into
from graft.training.checkpoint import latest_checkpoint, load_state, read_checkpoint
from graft.training.finish import register_model
from graft.training.plan import make_plan
from graft.training.prepare import Assembly, assemble
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
    """Take the best trial as it is, or train it again; register it; publish the result.

    Raises:
        RunFailed: there is no best trial.
    """
    trials = [ledger.records[number] for number in sorted(ledger.records)]
    search = sweep.search
    best = best_trial(trials, search.metric, search.mode)
    if best is None:
        raise RunFailed(f"{sweep_id}: no trial gave a finite {search.metric}: {_why(trials)}")
    record = next(r for r in trials if r.number == best.number)
    spec, model, run = specs(record), None, record.run
    if isinstance(sweep.best, Retrain):
        # The id follows from the sweep's: who comes back goes on with the same run.
        spec = retrained(spec, sweep.best)
        again = train(create_run(store, spec, f"{sweep_id}-best"))
        run, metrics = again.run, {part: again.metrics[part] for part in ("train", "val")}
    else:
        metrics = _metrics(record.epochs, best.epoch)
    if sweep.register_ and run:
        model, metrics = _register_run(store, sweep_id, spec, sweep.register_, run)
    elif sweep.register_:
        model, metrics = _register(store, sweep_id, spec, sweep.register_, record, best)
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


def _why(trials: Sequence[TrialRecord]) -> str:
    """Return what most trials ended with."""
    errors = Counter(trial.error for trial in trials if trial.error)
    if not errors:
        return "the time was up before one finished an epoch; raise budget.wall_time_s"
    (error, count), *_ = errors.most_common(1)
    return f"{count} of {len(trials)} trials ended with: {error}"


def _metrics(epochs: Sequence[TrialEpoch | Epoch], number: int) -> dict[str, dict[str, Any]]:
    epoch = next(epoch for epoch in epochs if epoch.epoch == number)
    return {"train": dict(epoch.train), "val": dict(epoch.val)}


def _register(
    store: Store,
    sweep_id: str,
    spec: Finetune,
    target: Register,
    record: TrialRecord,
    best: BestTrial,
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Register the weights that a trial kept; return NAME@VERSION and their metrics."""
    number = best.epoch if target.weights == "best" else record.epochs[-1].epoch
    assembly, chain = kept_model(store, spec, record, number)
    epoch = next(e for e in record.epochs if e.epoch == number)
    version = register_model(
        store,
        f"{sweep_id}/{record.number}",
        spec,
        target,
        assembly,
        chain,
        Epoch(epoch=number, train=dict(epoch.train), val=dict(epoch.val)),
        sweep_id,
    )
    return version.ref, _metrics(record.epochs, number)


def _register_run(
    store: Store, sweep_id: str, spec: Finetune, target: Register, run: str
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Register what a run of its own trained; return NAME@VERSION and its metrics.

    A run's best epoch is that of the best accuracy, whatever the sweep compares.
    """
    last = latest_checkpoint(store, run)
    if last is None:
        raise StoreError(f"{run} is finished, and none of its checkpoints is there")
    best = target.weights == "best" and last.best
    chosen = read_checkpoint(store, best) if best else last
    state = load_state(store, chosen)
    assembly = assemble(store, spec, chosen.freeze)
    chain = trunk_chain(assembly.model, assembly.contract)
    copy_into(assembly.model.network.state_dict(), state.average or state.tail)
    epoch = chosen.history[-1]
    version = register_model(store, run, spec, target, assembly, chain, epoch, sweep_id)
    return version.ref, _metrics(chosen.history, epoch.epoch)


def kept_model(
    store: Store, spec: Finetune, record: TrialRecord, epoch: int
) -> tuple[Assembly, TrunkChain]:
    """Return a trial's model with the weights that it kept, which are those of an epoch.

    Raises:
        StoreError: it kept none, or they are damaged.
    """
    tail = _tail(store, record)
    assembly = assemble(store, spec)
    plan = make_plan(assembly.model, spec.backbone, spec.train)
    assembly = assemble(store, spec, plan.depth(epoch))
    # Of the initial weights, which is what the trunk still has.
    chain = trunk_chain(assembly.model, assembly.contract)
    copy_into(assembly.model.network.state_dict(), tail)
    return assembly, chain


def _tail(store: Store, record: TrialRecord) -> dict[str, Tensor]:
    if record.checkpoint is None:
        raise StoreError(f"trial {record.number} kept no weights")
    data = store.read(record.checkpoint).data
    if sha256(data) not in record.checkpoint:
        raise StoreError(f"{store.uri}/{record.checkpoint} is damaged: its SHA-256 is another")
    tail: dict[str, Tensor] = load_tensors(data)
    return tail
