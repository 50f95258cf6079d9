"""Which trials' weights stay in the store: while a sweep runs, and when trials are listed."""

import pytest

from colours import colour_spec
from graft.spec import Sweep, parse_job
from graft.store import Store
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import TrialEpoch
from graft.sweep.trial import Progress
from graft.sweep.trial_recorder import TrialRecorder

ACCURACIES = [0.5, 0.7, 0.6, 0.7]
"""Of trials 1 to 4; of two alike the lower number is the better one."""

SEEDS = [{"train.seed": seed} for seed in range(4)]


def sweep_of(search, scheduler):
    space = {"train.optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}
    document = {
        "kind": "sweep",
        "name": "colours",
        "base": colour_spec(register=None).model_dump(mode="json", by_alias=True),
        "space": {} if search["kind"] == "list" else space,
        "search": search,
        "scheduler": {"kind": scheduler},
    }
    return parse_job(document, "test", Sweep)


def record_all(store, sweep, take_over_after):
    """Record trials, each with two tails, by two attempts; return their records."""
    records = []
    for number, accuracy in enumerate(ACCURACIES, 1):
        if number in (1, take_over_after + 1):  # a new attempt, which reads what there is
            recorder = TrialRecorder(store, "s", sweep, lambda event: None, lambda: None)
        _, best = (
            store.put("sweeps/s/tails", f"{number}.safetensors", f"{number} {epoch}".encode()).name
            for epoch in (1, 2)
        )
        epoch = TrialEpoch(epoch=2, train={}, val={"accuracy": accuracy, "loss": 1.0})
        progress = Progress(epochs=(epoch,), checkpoint=f"sweeps/s/tails/{best}", ended=True)
        trial = Trial(number=number, id="x", changes={}, spec=sweep.base, trunk=None)
        records.append(recorder.record(trial, progress))
    return records


@pytest.mark.parametrize(
    ("search", "scheduler", "left"),
    [
        ({"kind": "random", "trials": 4}, "none", [2]),
        # Others may have gone on from any of them.
        ({"kind": "random", "trials": 4}, "pbt", [1, 1, 2, 2, 3, 3, 4, 4]),
        # A transfer report will try each.
        ({"kind": "list", "trials": SEEDS}, "none", [1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_the_best_trials_weights_stay(tmp_path, search, scheduler, left):
    store = Store.open(str(tmp_path))
    records = record_all(store, sweep_of(search, scheduler), take_over_after=2)
    tails = [key for key, _ in store.scan("sweeps/s/tails/")]
    assert [int(key.rpartition("/")[2].partition("-")[0]) for key in tails] == left
    if left == [2]:
        assert tails == [records[1].checkpoint]
