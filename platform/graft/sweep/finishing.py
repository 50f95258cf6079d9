"""The end of a sweep: the best trial's weights become a model version; the result is published."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.errors import ObjectDamaged, RunFailed, StoreError
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
from graft.sweep.tails import keeps_all, remove_tails
from graft.sweep.trial_recorder import TrialRecorder
from graft.training.checkpoint import latest_checkpoint, load_checkpoint_model
from graft.training.moving_average import copy_into
from graft.training.prepare_run import PreparedRun, assemble
from graft.training.publish_model import Origin, Publishing, TrainedModel, register_model
from graft.training.run_records import Epoch, Result, create_run

TAIL_NAMES = 1 << 20
"""Bytes that a file of weights may have beside the weights themselves."""

TrainRun = Callable[[str], Result]
"""Trains a recorded run to its end."""


@dataclass(frozen=True)
class _Chosen:
    """The best trial of a sweep, as it is or trained again."""

    best: BestTrial
    record: TrialRecord
    spec: Finetune
    run: str | None
    """Id of the run that trained it; None: it was trained without a run of its own."""
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class EndedSweep:
    """A sweep whose trials have all ended, and what it takes to finish it."""

    store: Store
    sweep_id: str
    sweep: Sweep
    recorder: TrialRecorder
    spec_of: Callable[[TrialRecord], Finetune]
    """Returns the spec of a trial that has ended."""
    train: TrainRun

    def finish(self, publishing: Publishing) -> SweepResult:
        """Take the best trial as it is or train it again, register its model, publish the result.

        Raises:
            RunFailed: no trial gave a finite metric, or a newer attempt at the sweep has taken
                over.
        """
        trials = [self.recorder.records[number] for number in sorted(self.recorder.records)]
        chosen, search = self._choose(trials), self.sweep.search
        model, metrics = None, chosen.metrics
        if target := self.sweep.register_:
            trained = self._trained(chosen, target)
            model = register_model(self.store, trained, target, publishing).ref
            metrics = _metrics(trained.epoch)
        result = SweepResult(
            sweep=self.sweep_id,
            metric=search.metric,
            mode=search.mode,
            best=chosen.best,
            run=chosen.run,
            model=model,
            metrics=metrics,
            seconds=round(self.recorder.seconds, 3),
            states=count_states(trials),
            trunk_images=self.recorder.trunk_images,
            cached_images=self.recorder.cached_images,
            trials=tuple(trials),
            created=datetime.now(UTC).isoformat(),
        )
        publishing.fence()
        result = publish_sweep(self.store, result)
        if not keeps_all(self.sweep):  # from here on no attempt needs another one
            best = result.best.number if result.best else None
            kept = {trial.checkpoint for trial in result.trials if trial.number == best}
            remove_tails(self.store, self.sweep_id, kept)
        return result

    def _choose(self, trials: Sequence[TrialRecord]) -> _Chosen:
        """Return the best trial, trained again where the spec says so."""
        search = self.sweep.search
        best = best_trial(trials, search.metric, search.mode)
        if best is None:
            why = _why(trials)
            raise RunFailed(f"{self.sweep_id}: no trial gave a finite {search.metric}: {why}")
        record = next(trial for trial in trials if trial.number == best.number)
        spec = self.spec_of(record)
        if not isinstance(self.sweep.best, Retrain):
            metrics = _metrics(_epoch_of(record, best.epoch))
            return _Chosen(best, record, spec, record.run, metrics)
        spec = retrained(spec, self.sweep.best)
        # The run's id follows from the sweep's, so that a resumed sweep resumes this run.
        result = self.train(create_run(self.store, spec, f"{self.sweep_id}-best"))
        metrics = {part: result.metrics[part] for part in ("train", "val")}
        return _Chosen(best, record, spec, result.run, metrics)

    def _trained(self, chosen: _Chosen, target: Register) -> TrainedModel:
        """Load the weights that are to be registered: a run's, else those that a trial stored."""
        store, spec = self.store, chosen.spec
        if chosen.run:
            last = latest_checkpoint(store, chosen.run)
            if last is None:
                raise StoreError(f"{chosen.run} is finished, and none of its checkpoints is there")
            prepared, checkpoint = load_checkpoint_model(store, spec, last, target.weights)
            chain = trunk_chain(prepared.model, prepared.contract)
            origin = Origin(spec, chosen.run, self.sweep_id)
            return TrainedModel(origin, prepared, chain, checkpoint.history[-1])
        record = chosen.record
        number = chosen.best.epoch if target.weights == "best" else record.epochs[-1].epoch
        prepared, chain = load_trial_model(store, spec, record, number)
        epoch = Epoch(epoch=number, **_metrics(_epoch_of(record, number)))
        origin = Origin(spec, f"{self.sweep_id}/{record.number}", self.sweep_id)
        return TrainedModel(origin, prepared, chain, epoch)


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


def load_trial_model(
    store: Store, spec: Finetune, record: TrialRecord, epoch: int
) -> tuple[PreparedRun, TrunkChain]:
    """Return a trial's model with the weights that the trial stored after an epoch.

    Raises:
        StoreError: the trial stored no weights, or they are damaged.
    """
    prepared = assemble(store, spec)
    model = prepared.model.cut(prepared.plan.depth(epoch))
    prepared = replace(prepared, model=model)
    tail = _tail(store, record, prepared)
    # Hashed before the tail is loaded: the trunk has its initial weights all the time.
    chain = trunk_chain(prepared.model, prepared.contract)
    copy_into(prepared.model.network.state_dict(), tail)
    return prepared, chain


def _tail(store: Store, record: TrialRecord, prepared: PreparedRun) -> dict[str, Tensor]:
    if record.checkpoint is None:
        raise StoreError(f"trial {record.number} kept no weights")
    network = prepared.model.network.state_dict().values()
    data = store.read(record.checkpoint, sum(t.nbytes for t in network) + TAIL_NAMES).data
    if sha256(data) not in record.checkpoint:
        raise ObjectDamaged(f"{store.uri}/{record.checkpoint} is damaged: its SHA-256 is another")
    tail: dict[str, Tensor] = load_tensors(data)
    return tail
