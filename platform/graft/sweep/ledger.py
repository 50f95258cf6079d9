"""What a running sweep has come to: trials that are done go into the store at once."""

import time
from collections.abc import Callable

from graft.spec import Budget
from graft.store import Store
from graft.sweep.events import Advanced, Computing, Done, Noted, SweepEvent
from graft.sweep.plan import Trial
from graft.sweep.results import State, TrialEpoch, TrialRecord, put_trial, read_trials
from graft.sweep.trial import Compared

Show = Callable[[SweepEvent], None]


class Ledger:
    """Records a sweep's trials, tells of them, and keeps its time."""

    def __init__(self, store: Store, sweep_id: str, compared: Compared, budget: Budget, show: Show):
        self._store, self._id, self._compared = store, sweep_id, compared
        self._budget_s, self._show = budget.wall_time_s, show
        self.records = {record.number: record for record in read_trials(store, sweep_id)}
        """Trials that are done, by number."""
        self._before_s = max((r.ended_s for r in self.records.values()), default=0.0)
        self._began = time.monotonic()
        self.trunk_images = 0
        """Views of images that this command sent through a trunk."""
        self.kept_images = 0
        """Views of images whose activations were there before."""

    @property
    def seconds(self) -> float:
        """Since this command began the sweep, or went on with it."""
        return time.monotonic() - self._began

    @property
    def seconds_left(self) -> float | None:
        """Of the budget; None where it is without limit."""
        return None if self._budget_s is None else self._budget_s - self._before_s - self.seconds

    @property
    def out_of_time(self) -> bool:
        """Whether the budget's time is spent."""
        left = self.seconds_left
        return left is not None and left <= 0

    def say(self, text: str) -> None:
        """Tell a person something, on a line."""
        self._show(Noted(text))

    def waiting(self, holder: str) -> None:
        """Tell for which other process this one waits."""
        self.say(f"waiting for {holder}, which computes these activations now")

    def computing(self, images: int, total: int) -> None:
        """Tell how far the trunk is."""
        self._show(Computing(images, total))

    def advanced(self, trial: Trial, epoch: TrialEpoch | None) -> None:
        """Tell that a trial has begun, or finished an epoch."""
        name = self._compared.metric.removeprefix("val.")
        self._show(
            Advanced(
                trial.number,
                trial.changes,
                epoch.epoch if epoch else 0,
                trial.spec.train.epochs,
                epoch.val.get(name) if epoch else None,
            )
        )

    def record(
        self,
        trial: Trial,
        state: State,
        epochs: tuple[TrialEpoch, ...] = (),
        seconds: float = 0.0,
        run: str | None = None,
        checkpoint: str | None = None,
        error: str | None = None,
    ) -> TrialRecord:
        """Commit a trial that is done, and tell of it."""
        record = TrialRecord(
            number=trial.number,
            id=trial.id,
            changes=trial.changes,
            state=state,
            epochs=epochs,
            seconds=round(seconds, 3),
            ended_s=round(self._before_s + self.seconds, 3),
            run=run,
            checkpoint=checkpoint,
            error=error,
        )
        put_trial(self._store, self._id, record)
        self.records[trial.number] = record
        self._show(Done(record))
        return record
