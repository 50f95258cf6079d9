"""What a search learns from trials, whichever way they end."""

import math

import pytest

from colours import colour_spec
from graft.spec import Sweep, dump_job, parse_job, parse_yaml
from graft.sweep.search import OptunaSearch
from graft.sweep.sweep_records import TrialEpoch, TrialRecord

RATE = "train.optimizer.lr"


def search_of(kind: str, seed: int = 0, trials: int = 60) -> OptunaSearch:
    document = {
        "kind": "sweep",
        "name": "rates",
        "base": parse_yaml(dump_job(colour_spec(register=None)), "test"),
        "space": {RATE: {"log_uniform": [1e-5, 10.0]}},
        "search": {"kind": kind, "trials": trials, "startup": 10, "seed": seed},
        "scheduler": {"kind": "bohb" if kind == "bohb" else "none"},
    }
    sweep = parse_job(document, "test", Sweep)
    return OptunaSearch(sweep, sweep.search, [])


def record(suggestion, state, *accuracies) -> TrialRecord:
    epochs = tuple(
        TrialEpoch(epoch=n, train={}, val={"accuracy": a, "loss": 1 - a})
        for n, a in enumerate(accuracies, 1)
    )
    return TrialRecord(
        number=suggestion.number,
        id="0" * 12,
        changes=suggestion.changes,
        state=state,
        epochs=epochs,
        seconds=1.0,
        ended_s=1.0,
    )


def suggested(search: OptunaSearch, outcome) -> list[float]:
    """The rates of all trials, each told of before the next."""
    rates = []
    while suggestion := search.ask():
        rate = float(suggestion.changes[RATE])
        rates.append(rate)
        search.tell(record(suggestion, *outcome(rate)))
    return rates


@pytest.mark.parametrize("state", ["diverged", "stopped"])
def test_rates_that_diverge_or_are_stopped_are_avoided(state):
    """What is left is equally good, so that nothing but these trials draws the search away."""

    def outcome(rate: float):
        if rate < 1e-2:
            return "finished", 0.5, 0.5
        return ("diverged",) if state == "diverged" else ("stopped", 0.9)

    late = [rate for seed in range(3) for rate in suggested(search_of("tpe", seed), outcome)[20:]]
    assert sum(rate >= 1e-2 for rate in late) < len(late) / 4  # of half of the range


def test_trials_side_by_side_differ():
    search = search_of("tpe")
    for _ in range(12):
        suggestion = search.ask()
        rate = float(suggestion.changes[RATE])
        accuracy = 1 - abs(math.log10(rate) + 2) / 10
        search.tell(record(suggestion, "finished", accuracy))
    together = [math.log10(float(search.ask().changes[RATE])) for _ in range(8)]
    assert max(together) - min(together) > 1.0
