"""Where trials come from: a plan, or an estimator that learns from those before. No Ray.

Nothing is pickled: on a resumed sweep, a search is told of the recorded trials again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pydantic import JsonValue

from graft.spec import BOHBSearch, Choice, IntUniform, LogUniform, Range, Sweep, TPESearch
from graft.sweep.plan import Trial
from graft.sweep.results import TrialRecord, best_epoch
from graft.sweep.space import Changes, rounded


class Search(Protocol):
    """A source of trials."""

    def ask(self) -> tuple[int, Changes] | None:
        """Return the next trial's number and changes, None where there are no more."""

    def tell(self, record: TrialRecord) -> None:
        """Learn what a trial came to."""


class Planned:
    """The trials of a plan, in its order."""

    def __init__(self, trials: Iterable[Trial]):
        self._left = [(trial.number, trial.changes) for trial in trials]

    def ask(self) -> tuple[int, Changes] | None:
        """Return the next trial's number and changes."""
        return self._left.pop(0) if self._left else None

    def tell(self, record: TrialRecord) -> None:
        """Learn nothing."""


class Estimated:
    """Optuna's tree-structured Parzen estimator.

    `tpe` learns from trials that ended; `bohb` from stopped ones too, those that trained
    longest first, as Optuna weighs pruned trials.
    """

    def __init__(self, sweep: Sweep, search: TPESearch | BOHBSearch, done: Iterable[int]):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._search = sweep, search
        self._optuna = optuna
        done = set(done)
        self._left = [number for number in range(1, search.trials + 1) if number not in done]
        # What a resumed sweep draws is not what it drew before.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=search.startup, seed=search.seed + len(done)
        )
        self._study = optuna.create_study(
            sampler=sampler, direction="maximize" if search.mode == "max" else "minimize"
        )
        self._space = {key: _distribution(optuna, values) for key, values in sweep.space.items()}
        self._asked: dict[int, Any] = {}

    def ask(self) -> tuple[int, Changes] | None:
        """Return the next trial's number and changes."""
        if not self._left:
            return None
        number = self._left.pop(0)
        trial = self._study.ask(self._space)
        self._asked[number] = trial
        return number, self._changes(trial.params)

    def tell(self, record: TrialRecord) -> None:
        """Learn what a trial came to; one of an earlier sweep, or from before a restart, too."""
        state, values, steps = self._outcome(record)
        asked = self._asked.pop(record.number, None)
        if asked is not None:
            for step, value in steps.items():
                asked.report(value, step)
            self._study.tell(asked, values, state=state)
            return
        if state == self._optuna.trial.TrialState.FAIL:
            return
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=state,
                value=values,
                params={key: self._encoded(key, v) for key, v in record.changes.items()},
                distributions=self._space,
                intermediate_values=steps,
            )
        )

    def _outcome(self, record: TrialRecord) -> tuple[Any, float | None, dict[int, float]]:
        states = self._optuna.trial.TrialState
        metric, mode = self._search.metric, self._search.mode
        best = best_epoch(record, metric, mode)
        if best is None:
            return states.FAIL, None, {}
        name = metric.removeprefix("val.")
        if record.state == "stopped" and self._search.kind == "bohb":
            return states.PRUNED, None, {e.epoch: e.val[name] for e in record.epochs}
        return states.COMPLETE, best.val[name], {}

    def _changes(self, params: Mapping[str, Any]) -> Changes:
        return {key: self._decoded(key, value) for key, value in params.items()}

    def _decoded(self, key: str, value: Any) -> JsonValue:
        values = self._sweep.space[key]
        if isinstance(values, Choice):
            chosen: JsonValue = values.choice[int(value)]
            return chosen
        return int(value) if isinstance(values, IntUniform) else rounded(values, value)

    def _encoded(self, key: str, value: JsonValue) -> Any:
        values = self._sweep.space[key]
        if isinstance(values, Choice):
            return str(values.choice.index(value))
        return value


def make_search(
    sweep: Sweep, trials: Iterable[Trial], done: Iterable[TrialRecord], warm: Iterable[TrialRecord]
) -> Search:
    """Return a sweep's source of trials, those that are done left out or learnt from."""
    done = list(done)
    if not isinstance(sweep.search, TPESearch | BOHBSearch):
        numbers = {record.number for record in done}
        return Planned(trial for trial in trials if trial.number not in numbers)
    search = Estimated(sweep, sweep.search, [record.number for record in done])
    for record in [*warm, *done]:
        search.tell(record)
    return search


def _distribution(optuna: Any, values: Range) -> Any:
    if isinstance(values, Choice):
        # By place: values may be lists and mappings, of which Optuna knows nothing.
        return optuna.distributions.CategoricalDistribution(
            [str(place) for place in range(len(values.choice))]
        )
    if isinstance(values, IntUniform):
        return optuna.distributions.IntDistribution(*values.int_uniform)
    if isinstance(values, LogUniform):
        return optuna.distributions.FloatDistribution(*values.log_uniform, log=True)
    return optuna.distributions.FloatDistribution(*values.uniform)
