"""Sweeps in the store: ids, recorded specs and plans, ended trials, results.

sweeps/<sweep>/plan.json              the plan; written before the spec
sweeps/<sweep>/spec.yaml              the spec; with it the sweep exists
sweeps/<sweep>/head.json              its current attempt, as `training.attempt_pointer` says
sweeps/<sweep>/trials/<number>.json   a trial's record; with it the trial has ended
sweeps/<sweep>/result.json            the result; with it the sweep is finished
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from graft.spec import Changes, Id, Ref, Section, Sweep, dump_job
from graft.store import Store, document_bytes, find_document, read_document, record_once
from graft.store.index import indexed_rows
from graft.store.recorded_specs import id_ending, read_recorded_spec
from graft.sweep.sweep_plan import SweepPlan
from graft.training.best_epoch_and_stopping import not_finite

_WEIGHTS = r"^(sweeps/[^/]+/tails/[^/]+\.safetensors|runs/[^/]+/attempt-\d+/checkpoints/\d+)$"
State = Literal["finished", "stopped", "failed", "diverged"]


class TrialEpoch(Section):
    """Metrics of one epoch of a trial; all numbers are finite."""

    epoch: int
    """From 1."""
    train: dict[str, float]
    """`loss` and `accuracy`."""
    val: dict[str, float]
    """`loss`, `accuracy`, `macro_f1`, `ece`, and `top5_accuracy` with more than 5 classes."""

    def value_of(self, metric: str) -> float | None:
        """Return the value of a sweep's metric, such as `val.loss`; None if there is none."""
        return self.val.get(metric.removeprefix("val."))


class TrialRecord(Section):
    """A trial that has ended: the marker ``trials/<number>.json``."""

    number: int
    """From 1."""
    id: str
    """As in the plan."""
    changes: Changes
    """Values by dotted key of the sweep's base."""
    state: State
    """`stopped`: the scheduler or the budget stopped it; `failed`: an error did; `diverged`: a
    metric was not a finite number."""
    epochs: tuple[TrialEpoch, ...] = ()
    """The epochs whose numbers are finite."""
    seconds: float
    """Seconds of training and validation; of trials that were one computation, each has an equal
    share. Records of earlier releases count set-up here, too."""
    setup_s: float | None = None
    """Seconds before, to build the model and to open or compute activations; shared likewise. null:
    of an earlier release."""
    ended_s: float
    """Seconds from the sweep's start to the trial's end; after a resume the count goes on."""
    run: Id | None = None
    """Id of the run that trained it; null: it was trained without a run of its own."""
    checkpoint: str | None = Field(default=None, pattern=_WEIGHTS)
    """Store key of its weights: a tail, which is there as long as `sweep.tails` says, or a run's
    checkpoint; null: none were stored."""
    error: str | None = None
    """What went wrong, on one line."""


class BestTrial(Section):
    """The best trial of a sweep."""

    number: int
    id: str
    changes: Changes
    epoch: int
    """Its best epoch, from 1."""
    value: float
    """The metric after that epoch."""


class SweepResult(Section):
    """A finished sweep's result: the marker ``result.json``, and the document of ``--json``."""

    sweep: Id
    metric: str
    mode: Literal["max", "min"]
    best: BestTrial | None
    """null: no trial gave a finite metric."""
    run: Id | None
    """Id of the run that trained the best model's weights; null: no run did."""
    model: Ref | None
    """NAME@VERSION; null: the spec registers no model."""
    metrics: dict[str, dict[str, Any]]
    """`train` and `val` of the best trial's best epoch, or of the run that retrained it."""
    seconds: float
    """Wall time from the start of the command that finished the sweep."""
    states: dict[str, int]
    """Number of trials by state."""
    trunk_images: int
    """Views of images that this sweep sent through a trunk, or through part of one."""
    cached_images: int
    """Views of images whose activations were in the cache already."""
    trials: tuple[TrialRecord, ...]
    """By number."""
    created: str
    """ISO 8601 in UTC."""


def create_sweep(store: Store, sweep: Sweep, plan: SweepPlan, sweep_id: str | None = None) -> str:
    """Record a resolved spec and its plan; return the sweep's id, by default a new one."""
    sweep_id = sweep_id or sweep.name + id_ending()
    store.create(f"sweeps/{sweep_id}/plan.json", document_bytes(plan))
    store.create(f"sweeps/{sweep_id}/spec.yaml", dump_job(sweep).encode())
    return sweep_id


def read_sweep(store: Store, sweep_id: str) -> Sweep:
    """Return a sweep's recorded spec.

    Raises:
        NotFoundError: no such sweep.
    """
    return read_recorded_spec(store, "sweep", sweep_id, Sweep)


def read_plan(store: Store, sweep_id: str) -> SweepPlan:
    """Return a sweep's plan.

    Raises:
        ObjectNotFound: no such sweep.
    """
    return read_document(store, f"sweeps/{sweep_id}/plan.json", SweepPlan)


def put_trial(store: Store, sweep_id: str, record: TrialRecord) -> None:
    """Commit a trial that has ended.

    Raises:
        ObjectExists: another driver has committed another record of it.
    """
    store.create(f"sweeps/{sweep_id}/trials/{record.number}.json", document_bytes(record))


def read_trials(store: Store, sweep_id: str) -> list[TrialRecord]:
    """Return the records of all trials that have ended, in order of their numbers."""
    keys = [key for key, _ in store.scan(f"sweeps/{sweep_id}/trials/")]
    records = indexed_rows(
        store,
        f"sweeps/{sweep_id}/trials-index.json",
        TrialRecord,
        keys,
        lambda key: read_document(store, key, TrialRecord),
    )
    return sorted(records.values(), key=lambda record: record.number)


def publish_sweep(store: Store, result: SweepResult) -> SweepResult:
    """Commit the result, and return the sweep's: an older attempt's where that was late."""
    key = f"sweeps/{result.sweep}/result.json"
    return record_once(store, key, SweepResult, lambda: result)


def read_sweep_result(store: Store, sweep_id: str) -> SweepResult | None:
    """Return a sweep's result; None until it is finished."""
    return find_document(store, f"sweeps/{sweep_id}/result.json", SweepResult)


def trial_epochs(
    epochs: Iterable[tuple[int, Mapping[str, Any], Mapping[str, Any]]],
) -> tuple[tuple[TrialEpoch, ...], str | None]:
    """Return the epochs before the first one with a number that is not finite, and that number.

    Args:
        epochs: number, training metrics and validation metrics of each; matrices and values by
            class among them are left out, since trials are not compared by them.

    Returns:
        The epochs, and a line that names the number; None if all are finite.
    """
    finite: list[TrialEpoch] = []
    for number, train, val in epochs:
        if problem := not_finite(number, train, val):
            return tuple(finite), problem
        finite.append(TrialEpoch(epoch=number, train=_numbers(train), val=_numbers(val)))
    return tuple(finite), None


def count_states(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """Return the number of trials in each state that occurs."""
    return dict(Counter(record.state for record in trials))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
