"""The list of sweeps: what it tells of finished ones is kept in an index."""

import contextlib
from typing import Literal

from graft.errors import NotFoundError
from graft.spec import Id, Ref, Section
from graft.store import Store, Tell
from graft.store.index import indexed_rows
from graft.sweep.best_trial import best_trial
from graft.sweep.sweep_records import (
    BestTrial,
    read_plan,
    read_sweep,
    read_sweep_result,
    read_trials,
)


class SweepRow(Section):
    """What lists tell of a sweep; of a finished one, a row of their index."""

    sweep: Id
    state: Literal["finished", "unfinished"]
    done: int
    """How many trials have ended."""
    trials: int
    """How many its plan has."""
    metric: str
    best: BestTrial | None
    model: Ref | None


def list_sweep_rows(store: Store, tell: Tell | None = None) -> list[SweepRow]:
    """Return a row for every sweep, by id; `tell` is told of damaged ones, which are left out."""

    def make(sweep_id: str) -> SweepRow | None:
        with contextlib.suppress(NotFoundError):  # it has not begun
            return sweep_row(store, sweep_id)
        return None

    rows = indexed_rows(
        store,
        "sweeps/index.json",
        SweepRow,
        store.children("sweeps/"),
        make,
        settled=lambda row: row.state == "finished",
        tell=tell,
    )
    return list(rows.values())


def sweep_row(store: Store, sweep_id: str) -> SweepRow:
    """Return what lists tell of a sweep, from its markers; errors as those of `read_sweep`."""
    search, result = read_sweep(store, sweep_id).search, read_sweep_result(store, sweep_id)
    trials = result.trials if result else read_trials(store, sweep_id)
    return SweepRow(
        sweep=sweep_id,
        state="finished" if result else "unfinished",
        done=len(trials),
        trials=read_plan(store, sweep_id).count,
        metric=search.metric,
        best=best_trial(trials, search.metric, search.mode),
        model=result.model if result else None,
    )
