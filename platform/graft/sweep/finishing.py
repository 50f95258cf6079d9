"""The end of a sweep: the best trial's weights become a model version; the result is published."""

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
from graft.sweep.best_trial import best_trial
from graft.sweep.sweep_records import (
    BestTrial,
    SweepResult,
    TrialEpoch,
    TrialRecord,
    count_states,
    publish_sweep,
)
from graft.sweep.trial_recorder import TrialRecorder
from graft.training.checkpoint import latest_checkpoint, load_checkpoint_model
from graft.training.moving_average import copy_into
from graft.training.prepare_run import PreparedRun, assemble
from graft.training.publish_model import Origin, Publishing, TrainedModel, register_model
from graft.training.run_records import Epoch, Result, create_run
from graft.training.training_plan import make_training_plan

TrainRun = Callable[[str], Result]
"""Trains a recorded run to its end."""


def finish_sweep(
    store: Store,
    sweep_id: str,
    sweep: Sweep,
    recorder: TrialRecorder,
    spec_of: Callable[[TrialRecord], Finetune],
    train: TrainRun,
    publishing: Publishing,
) -> SweepResult:
    """Take the best trial as it is or train it again, register its model, publish the result.

    Raises:
        RunFailed: no trial gave a finite metric, or a newer attempt at the sweep has taken over.
    """
    trials = [recorder.records[number] for number in sorted(recorder.records)]
    search = sweep.search
    best = best_trial(trials, search.metric, search.mode)
    if best is None:
        raise RunFailed(f"{sweep_id}: no trial gave a finite {search.metric}: {_why(trials)}")
    record = next(trial for trial in trials if trial.number == best.number)
    spec, model, run = spec_of(record), None, record.run
    if isinstance(sweep.best, Retrain):
        spec = retrained(spec, sweep.best)
        # The run's id follows from the sweep's, so that a resumed sweep resumes this run.
        result = train(create_run(store, spec, f"{sweep_id}-best"))
        run, metrics = result.run, {part: result.metrics[part] for part in ("train", "val")}
    else:
        metrics = _metrics(_epoch_of(record, best.epoch))
    if target := sweep.register_:
        if run:
            trained = _trained_by_run(store, sweep_id, spec, target, run)
        else:
            trained = _trained_by_trial(store, sweep_id, spec, target, record, best)
        model = register_model(store, trained, target, publishing).ref
        metrics = _metrics(trained.epoch)
    finished = SweepResult(
        sweep=sweep_id,
        metric=search.metric,
        mode=search.mode,
        best=best,
        run=run,
        model=model,
        metrics=metrics,
        seconds=round(recorder.seconds, 3),
        states=count_states(trials),
        trunk_images=recorder.trunk_images,
        cached_images=recorder.cached_images,
        trials=tuple(trials),
        created=datetime.now(UTC).isoformat(),
    )
    publishing.fence()
    publish_sweep(store, finished)
    return finished


def retrained(spec: Finetune, best: Retrain) -> Finetune:
    """Return the spec of the run that trains the best trial again."""
    train = spec.train.model_copy(update={"epochs": best.epochs or spec.train.epochs})
    return spec.model_copy(update={"train": train})


def _why(trials: Sequence[TrialRecord]) -> str:
    """Return the error of most trials, or that they had too little time."""
    errors = Counter(trial.error for trial in trials if trial.error)
    if not errors:
        return "the time was up before one finished an epoch; raise budget.wall_time_s"
    (error, count), *_ = errors.most_common(1)
    return f"{count} of {len(trials)} trials ended with: {error}"


def _metrics(epoch: TrialEpoch | Epoch) -> dict[str, dict[str, Any]]:
    return {"train": dict(epoch.train), "val": dict(epoch.val)}


def _epoch_of(record: TrialRecord, number: int) -> TrialEpoch:
    return next(epoch for epoch in record.epochs if epoch.epoch == number)


def _trained_by_trial(
    store: Store,
    sweep_id: str,
    spec: Finetune,
    target: Register,
    record: TrialRecord,
    best: BestTrial,
) -> TrainedModel:
    """Load the weights that a trial stored."""
    number = best.epoch if target.weights == "best" else record.epochs[-1].epoch
    prepared, chain = load_trial_model(store, spec, record, number)
    epoch = Epoch(epoch=number, **_metrics(_epoch_of(record, number)))
    origin = Origin(spec, f"{sweep_id}/{record.number}", sweep_id)
    return TrainedModel(origin, prepared, chain, epoch)


def _trained_by_run(
    store: Store, sweep_id: str, spec: Finetune, target: Register, run: str
) -> TrainedModel:
    """Load the weights of a run's checkpoint.

    A run's best epoch is the one with the best accuracy, whichever metric the sweep compares.
    """
    last = latest_checkpoint(store, run)
    if last is None:
        raise StoreError(f"{run} is finished, and none of its checkpoints is there")
    prepared, chosen = load_checkpoint_model(store, spec, last, target.weights)
    chain = trunk_chain(prepared.model, prepared.contract)
    return TrainedModel(Origin(spec, run, sweep_id), prepared, chain, chosen.history[-1])


def load_trial_model(
    store: Store, spec: Finetune, record: TrialRecord, epoch: int
) -> tuple[PreparedRun, TrunkChain]:
    """Return a trial's model with the weights that the trial stored after an epoch.

    Raises:
        StoreError: the trial stored no weights, or they are damaged.
    """
    tail = _tail(store, record)
    prepared = assemble(store, spec)
    plan = make_training_plan(prepared.model, spec.backbone, spec.train)
    prepared = assemble(store, spec, plan.depth(epoch))
    # Hashed before the tail is loaded: the trunk has its initial weights all the time.
    chain = trunk_chain(prepared.model, prepared.contract)
    copy_into(prepared.model.network.state_dict(), tail)
    return prepared, chain


def _tail(store: Store, record: TrialRecord) -> dict[str, Tensor]:
    if record.checkpoint is None:
        raise StoreError(f"trial {record.number} kept no weights")
    data = store.read(record.checkpoint).data
    if sha256(data) not in record.checkpoint:
        raise StoreError(f"{store.uri}/{record.checkpoint} is damaged: its SHA-256 is another")
    tail: dict[str, Tensor] = load_tensors(data)
    return tail
