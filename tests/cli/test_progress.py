"""What a person sees while something runs."""

import pytest

from colours import colour_spec
from graft.cli.show.pace import showing_pace
from graft.cli.show.sweep import _SweepProgress
from graft.cli.show.training import _TrainingProgress
from graft.parts.pace import Pace
from graft.spec import Sweep, dump_job, parse_job, parse_yaml
from graft.sweep.sweep_events import TrialAdvanced, TrialEnded
from graft.sweep.sweep_records import TrialEpoch, TrialRecord
from graft.training.events import Stepped


def test_a_predictions_pace_is_told_on_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.cli.show.pace.LINE_EVERY_S", 3600.0)
    with showing_pace(lambda pace: "predicting") as show:
        for done in (0, 50, 100):
            show(Pace(done=done, of=200, files_per_second=done / 4 or None))
    assert capsys.readouterr().err == "50 of 200 files, 12.5 files/s, 12 s left\n"


def test_a_runs_bar_is_over_the_steps_of_all_epochs():
    progress = _TrainingProgress("a-run", colour_spec(train__epochs=3))
    shown = []
    for epoch, step in ((1, 1), (1, 10), (2, 3), (3, 10)):
        progress.show(Stepped(epoch, step, 10, loss=1.0, accuracy=0.5, images_per_second=9.0))
        (task,) = progress.bar.tasks
        shown.append((task.completed, task.total, task.description))
    assert shown == [
        (1, 30, "epoch 1/3"),
        (10, 30, "epoch 1/3"),
        (13, 30, "epoch 2/3"),
        (30, 30, "epoch 3/3"),
    ]


def record(number: int, state: str, accuracy: float) -> TrialRecord:
    val = {"accuracy": accuracy, "loss": 1 - accuracy}
    return TrialRecord(
        number=number,
        id="0" * 12,
        changes={"train.seed": number},
        state=state,
        epochs=() if state == "failed" else (TrialEpoch(epoch=1, train=val, val=val),),
        seconds=1.0,
        ended_s=1.0,
        error="no memory" if state == "failed" else None,
    )


def test_a_sweeps_table_counts_what_is_done_and_names_the_best(capsys):
    document = {
        "kind": "sweep",
        "name": "seeds",
        "base": parse_yaml(dump_job(colour_spec(register=None)), "test"),
        "space": {"train.seed": {"choice": [1, 2, 3, 4]}},
        "search": {"kind": "grid", "metric": "val.accuracy", "mode": "max"},
    }
    progress = _SweepProgress("a-sweep", parse_job(document, "test", Sweep), 4)
    progress.show(TrialAdvanced(1, {"train.seed": 1}, 0, 3, None))
    progress.show(TrialEnded(record(1, "finished", 0.5)))
    progress.show(TrialEnded(record(2, "finished", 0.75)))
    progress.show(TrialEnded(record(3, "failed", 0.0)))
    progress.show(TrialAdvanced(4, {"train.seed": 4}, 1, 3, 0.25))
    table = progress._table()
    assert table.caption == "3/4 done (1 failed, 2 finished)  best 0.7500 (trial 2)"
    assert table.row_count == 1
    assert "trial 3/4  train.seed 3  no memory" in capsys.readouterr().err
