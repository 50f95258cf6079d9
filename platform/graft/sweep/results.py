"""Sweeps in the store: ids, recorded specs and plans, finished trials, results.

sweeps/<sweep>/plan.json              the plan; written before the spec
sweeps/<sweep>/spec.yaml              makes the sweep exist
sweeps/<sweep>/trials/<number>.json   makes a trial done, one way or another
sweeps/<sweep>/result.json            makes the sweep finished
"""

import math
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import JsonValue

from graft.errors import NotFoundError, ObjectNotFound, SpecError
from graft.spec import Section, Sweep, dump_job, nearest, parse_job, parse_yaml
from graft.store import Store
from graft.sweep.plan import Plan
from graft.sweep.space import holds

State = Literal["finished", "stopped", "failed", "diverged"]


class TrialEpoch(Section):
    """What one epoch of a trial gave; all numbers are finite."""

    epoch: int
    """From 1."""
    train: dict[str, float]
    """`loss` and `accuracy`."""
    val: dict[str, float]
    """`loss`, `accuracy`, `macro_f1`, `ece`, and `top5_accuracy` where there is one."""


class TrialRecord(Section):
    """A trial that is done: the marker ``trials/<number>.json``."""

    number: int
    """From 1."""
    id: str
    """As in the plan."""
    changes: dict[str, JsonValue]
    """Values by dotted key of the sweep's base."""
    state: State
    """`stopped`: by the scheduler or the budget; `failed`: by an error; `diverged`: a loss was
    no finite number."""
    epochs: tuple[TrialEpoch, ...] = ()
    """Those of finite numbers."""
    seconds: float
    """Wall time of the trial; its share, where several were trained as one computation."""
    ended_s: float
    """Seconds from the sweep's start to the trial's end; a resumed sweep's count on."""
    run: str | None = None
    """Id of the run that trained it, where there is one."""
    checkpoint: str | None = None
    """Store key of what was kept of its weights."""
    error: str | None = None
    """What went wrong, on a line."""


class BestTrial(Section):
    """The best trial of a sweep."""

    number: int
    id: str
    changes: dict[str, JsonValue]
    epoch: int
    """The best one, from 1."""
    value: float
    """Of the metric."""


class SweepResult(Section):
    """What a finished sweep gives: the marker ``result.json``, and the document of ``--json``."""

    sweep: str
    metric: str
    mode: Literal["max", "min"]
    best: BestTrial | None
    """null: no trial gave a finite metric."""
    run: str | None
    """Id of the run with the best model's weights, where there is one."""
    model: str | None
    """NAME@VERSION, where the spec registers one."""
    metrics: dict[str, dict[str, Any]]
    """`train` and `val` of the best trial's best epoch; where it was retrained, of that run."""
    seconds: float
    """Wall time from the start of the command that finished the sweep."""
    states: dict[str, int]
    """Number of trials by state."""
    trunk_images: int
    """Views of images that this sweep sent through a trunk, or through a part of one."""
    cached_images: int
    """Views of images whose activations were there already."""
    trials: tuple[TrialRecord, ...]
    """By number."""
    created: str
    """ISO 8601 in UTC."""


def create_sweep(store: Store, sweep: Sweep, plan: Plan, sweep_id: str | None = None) -> str:
    """Record a resolved spec and its plan under a sweep id, by default a new one; return the id."""
    new = f"{sweep.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    sweep_id = sweep_id or new
    data = plan.model_dump_json(by_alias=True, indent=1).encode()
    store.create(f"sweeps/{sweep_id}/plan.json", data)
    store.create(f"sweeps/{sweep_id}/spec.yaml", dump_job(sweep).encode())
    return sweep_id


def list_sweeps(store: Store) -> list[str]:
    """Return the ids of all sweeps."""
    return [s for s in store.children("sweeps/") if store.exists(f"sweeps/{s}/spec.yaml")]


def read_sweep(store: Store, sweep_id: str) -> Sweep:
    """Return a sweep's recorded spec.

    Raises:
        NotFoundError: no such sweep.
    """
    where = f"sweeps/{sweep_id}/spec.yaml"
    try:
        text = store.read(where).data.decode()
    except ObjectNotFound as error:
        raise NotFoundError(
            f"no sweep '{sweep_id}' in {store.uri}{nearest(sweep_id, list_sweeps(store))}"
        ) from error
    return parse_job(parse_yaml(text, where), where, Sweep)


def read_plan(store: Store, sweep_id: str) -> Plan:
    """Return a sweep's plan.

    Raises:
        ObjectNotFound: no such sweep.
    """
    return Plan.model_validate_json(store.read(f"sweeps/{sweep_id}/plan.json").data)


def put_trial(store: Store, sweep_id: str, record: TrialRecord) -> None:
    """Commit a trial that is done.

    Raises:
        ObjectExists: another driver has committed it.
    """
    data = record.model_dump_json(indent=1).encode()
    store.create(f"sweeps/{sweep_id}/trials/{record.number}.json", data)


def read_trials(store: Store, sweep_id: str) -> list[TrialRecord]:
    """Return the trials that are done, by number."""
    folder = f"sweeps/{sweep_id}/trials/"
    records = [
        TrialRecord.model_validate_json(store.read(key).data) for key, _ in store.scan(folder)
    ]
    return sorted(records, key=lambda record: record.number)


def publish_sweep(store: Store, result: SweepResult) -> None:
    """Commit the result."""
    data = result.model_dump_json(indent=1).encode()
    store.create(f"sweeps/{result.sweep}/result.json", data)


def read_sweep_result(store: Store, sweep_id: str) -> SweepResult | None:
    """Return a sweep's result, None while it has none."""
    try:
        return SweepResult.model_validate_json(store.read(f"sweeps/{sweep_id}/result.json").data)
    except ObjectNotFound:
        return None


def trial_epochs(
    epochs: Iterable[tuple[int, Mapping[str, Any], Mapping[str, Any]]],
) -> tuple[tuple[TrialEpoch, ...], str | None]:
    """Return epochs (number, train, val) up to one that is not finite, and what was not.

    Matrices and values by class are left out; they are not what trials are compared by.
    """
    kept: list[TrialEpoch] = []
    for number, train, val in epochs:
        parts = {"train": _numbers(train), "val": _numbers(val)}
        for part, values in parts.items():
            for name, value in values.items():
                if not math.isfinite(value):
                    return tuple(kept), f"{part} {name} was {value} in epoch {number}"
        kept.append(TrialEpoch(epoch=number, train=parts["train"], val=parts["val"]))
    return tuple(kept), None


def best_epoch(record: TrialRecord, metric: str, mode: str) -> TrialEpoch | None:
    """Return a trial's best epoch, the earlier of two alike; None of one that cannot win."""
    if record.state in ("failed", "diverged"):
        return None
    sign, name = _direction(metric, mode)
    having = [epoch for epoch in record.epochs if name in epoch.val]
    return max(having, key=lambda e: (sign * e.val[name], -e.val["loss"], -e.epoch), default=None)


def better(epoch: TrialEpoch, than: TrialEpoch | None, metric: str, mode: str) -> bool:
    """Whether an epoch of a trial is better than the best of those before it."""
    sign, name = _direction(metric, mode)
    if than is None or name not in epoch.val:
        return than is None
    return (sign * epoch.val[name], -epoch.val["loss"]) > (sign * than.val[name], -than.val["loss"])


def ranked(
    trials: Iterable[TrialRecord], metric: str, mode: str
) -> list[tuple[TrialRecord, TrialEpoch | None]]:
    """Return trials with their best epochs, the best trial first.

    Of two alike the one of lower validation loss is better; those that cannot win come last.
    """
    sign, name = _direction(metric, mode)

    def key(pair: tuple[TrialRecord, TrialEpoch | None]) -> tuple[float, float, int]:
        record, epoch = pair
        if epoch is None:
            return (math.inf, math.inf, record.number)
        return (-sign * epoch.val[name], epoch.val["loss"], record.number)

    return sorted(((record, best_epoch(record, metric, mode)) for record in trials), key=key)


def best_trial(trials: Iterable[TrialRecord], metric: str, mode: str) -> BestTrial | None:
    """Return the best trial by its best epoch; one that failed or diverged never wins."""
    for record, epoch in ranked(trials, metric, mode):
        if epoch is not None:
            return BestTrial(
                number=record.number,
                id=record.id,
                changes=record.changes,
                epoch=epoch.epoch,
                value=epoch.val[metric.removeprefix("val.")],
            )
    return None


def count_states(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """Return the number of trials by state; of states that occur."""
    counts: dict[str, int] = {}
    for record in trials:
        counts[record.state] = counts.get(record.state, 0) + 1
    return counts


def warm_trials(store: Store, sweep: Sweep) -> list[TrialRecord]:
    """Return the trials of `warm_start` that the search can learn from; none where it is null.

    Raises:
        NotFoundError: no such sweep.
        SpecError: it looked for something else, or none of its trials has values for all keys.
    """
    if sweep.warm_start is None:
        return []
    earlier = read_sweep(store, sweep.warm_start)
    if earlier.search.metric != sweep.search.metric:
        raise SpecError(
            f"warm_start: {sweep.warm_start} compared trials by {earlier.search.metric}, "
            f"search.metric is {sweep.search.metric}"
        )
    usable = [
        record
        for record in read_trials(store, sweep.warm_start)
        if record.changes.keys() == sweep.space.keys()
        and best_epoch(record, sweep.search.metric, sweep.search.mode)
        and all(holds(sweep.space[key], value) for key, value in record.changes.items())
    ]
    if not usable:
        raise SpecError(
            f"warm_start: no trial of {sweep.warm_start} lies in this space "
            f"({', '.join(sweep.space)})"
        )
    return usable


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _direction(metric: str, mode: str) -> tuple[int, str]:
    return (1 if mode == "max" else -1), metric.removeprefix("val.")
