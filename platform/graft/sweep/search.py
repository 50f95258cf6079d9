"""Where trials come from: a plan, or an estimator that learns from earlier trials. No Ray.

Nothing is pickled: when a sweep is resumed, its search learns from the recorded trials again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import JsonValue

from graft.errors import SpecError
from graft.spec import (
    BOHBSearch,
    Changes,
    Choice,
    IntUniform,
    LogUniform,
    Range,
    Sweep,
    TPESearch,
)
from graft.store import Store
from graft.sweep.best_trial import best_epoch
from graft.sweep.space import holds, into_range
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import TrialRecord, read_sweep, read_trials


@dataclass(frozen=True)
class Suggestion:
    """The next trial to train, as a search suggests it."""

    number: int
    changes: Changes


class TrialSearch(Protocol):
    """A source of trials."""

    def ask(self) -> Suggestion | None:
        """Return the next trial, None where there are no more."""

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial that has ended."""


class PlannedSearch:
    """Suggests the trials of a plan, in the plan's order."""

    def __init__(self, trials: Iterable[Trial]):
        self._left = [Suggestion(trial.number, trial.changes) for trial in trials]

    def ask(self) -> Suggestion | None:
        """Return the next trial, None where there are no more."""
        return self._left.pop(0) if self._left else None

    def tell(self, record: TrialRecord) -> None:
        """Learn nothing."""


@dataclass(frozen=True)
class _Outcome:
    """A trial's outcome in Optuna's terms."""

    state: Any
    value: float | None = None
    """The metric of a complete trial."""
    by_epoch: Mapping[int, float] = field(default_factory=dict)
    """The metric after each epoch of a pruned trial."""


class OptunaSearch:
    """Suggests trials by Optuna's tree-structured Parzen estimator.

    To Optuna a trial that was stopped is a pruned one: worse than all that finished, and worse the
    sooner it stopped. A trial that diverged counts as pruned too, so that its neighbours are
    avoided. Trials that still run count as bad ones (`constant_liar`), so that those beside them
    differ.
    """

    def __init__(self, sweep: Sweep, search: TPESearch | BOHBSearch, ended: Iterable[int]):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._search = sweep, search
        self._optuna = optuna
        ended = set(ended)
        self._left = [number for number in range(1, search.trials + 1) if number not in ended]
        # A resumed sweep must not draw again what it drew before.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=search.startup, seed=search.seed + len(ended), constant_liar=True
        )
        self._study = optuna.create_study(
            sampler=sampler, direction="maximize" if search.mode == "max" else "minimize"
        )
        self._space = {key: _distribution(optuna, values) for key, values in sweep.space.items()}
        self._running: dict[int, Any] = {}
        """Optuna's trials that have not ended yet, by our number."""

    def ask(self) -> Suggestion | None:
        """Return the next trial, None where there are no more."""
        if not self._left:
            return None
        number = self._left.pop(0)
        trial = self._running[number] = self._study.ask(self._space)
        changes = {key: self._decoded(key, value) for key, value in trial.params.items()}
        return Suggestion(number, changes)

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial: one of this search, of an earlier sweep, or from before a resume."""
        outcome = self._outcome(record)
        trial = self._running.pop(record.number, None)
        if trial is not None:
            for epoch, value in outcome.by_epoch.items():
                trial.report(value, epoch)
            self._study.tell(trial, outcome.value, state=outcome.state)
        elif outcome.state != self._optuna.trial.TrialState.FAIL:
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    state=outcome.state,
                    value=outcome.value,
                    params={key: self._encoded(key, v) for key, v in record.changes.items()},
                    distributions=self._space,
                    intermediate_values=dict(outcome.by_epoch),
                )
            )

    def _outcome(self, record: TrialRecord) -> _Outcome:
        states = self._optuna.trial.TrialState
        metric, mode = self._search.metric, self._search.mode
        if record.state == "diverged":
            return _Outcome(states.PRUNED)
        best = best_epoch(record, metric, mode)
        if best is None:
            return _Outcome(states.FAIL)
        name = metric.removeprefix("val.")
        if record.state == "stopped":
            by_epoch = {epoch.epoch: epoch.val[name] for epoch in record.epochs}
            return _Outcome(states.PRUNED, by_epoch=by_epoch)
        return _Outcome(states.COMPLETE, best.val[name])

    def _decoded(self, key: str, value: Any) -> JsonValue:
        """Return the value that one of Optuna's stands for."""
        values = self._sweep.space[key]
        if isinstance(values, Choice):
            chosen: JsonValue = values.choice[int(value)]
            return chosen
        return into_range(values, value)

    def _encoded(self, key: str, value: JsonValue) -> Any:
        """Return the value that Optuna has for one of ours."""
        values = self._sweep.space[key]
        return str(values.choice.index(value)) if isinstance(values, Choice) else value


def make_search(
    sweep: Sweep, trials: Iterable[Trial], ended: Iterable[TrialRecord], warm: Iterable[TrialRecord]
) -> TrialSearch:
    """Return the search of a sweep.

    Args:
        sweep: the sweep's spec.
        trials: those of the plan; empty where the search finds trials as it goes.
        ended: trials of this sweep that have ended; they are not suggested again.
        warm: trials of an earlier sweep to learn from.
    """
    ended = list(ended)
    numbers = {record.number for record in ended}
    if not isinstance(sweep.search, TPESearch | BOHBSearch):
        return PlannedSearch(trial for trial in trials if trial.number not in numbers)
    search = OptunaSearch(sweep, sweep.search, numbers)
    for record in [*warm, *ended]:
        search.tell(record)
    return search


def _distribution(optuna: Any, values: Range) -> Any:
    if isinstance(values, Choice):
        # Places instead of values: these may be lists or mappings, which Optuna cannot store.
        return optuna.distributions.CategoricalDistribution(
            [str(place) for place in range(len(values.choice))]
        )
    if isinstance(values, IntUniform):
        return optuna.distributions.IntDistribution(*values.int_uniform)
    if isinstance(values, LogUniform):
        return optuna.distributions.FloatDistribution(*values.log_uniform, log=True)
    return optuna.distributions.FloatDistribution(*values.uniform)


def warm_trials(store: Store, sweep: Sweep) -> list[TrialRecord]:
    """Return the trials of `warm_start` that the search can learn from; [] where it is null.

    Raises:
        NotFoundError: no such sweep.
        SpecError: it compared trials by another metric, or none of its trials lies in the space.
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
