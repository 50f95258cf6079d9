"""Progress of a running sweep: trials that end are recorded in the store at once, and shown."""

import time
from collections.abc import Callable

from graft.registry import Fence
from graft.spec import Budget
from graft.store import Store
from graft.sweep.sweep_events import SweepEvent, TrialAdvanced, TrialEnded
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import TrialEpoch, TrialRecord, put_trial, read_trials
from graft.sweep.trial import Progress, Selection
from graft.training.events import Note, TrunkComputing

Show = Callable[[SweepEvent], None]


class TrialRecorder:
    """Records a sweep's trials, shows their progress, and watches the time budget."""

    def __init__(
        self,
        store: Store,
        sweep_id: str,
        selection: Selection,
        budget: Budget,
        show: Show,
        fence: Fence,
    ):
        self._store, self._id, self._metric = store, sweep_id, selection.metric
        self._budget_s, self._show, self._fence = budget.wall_time_s, show, fence
        self.records = {record.number: record for record in read_trials(store, sweep_id)}
        """Records of the trials that have ended, by number."""
        self._before_s = max((r.ended_s for r in self.records.values()), default=0.0)
        self._began = time.monotonic()
        self.trunk_images = 0
        """Views of images that this command sent through a trunk."""
        self.cached_images = 0
        """Views of images whose activations were in the cache already."""

    @property
    def seconds(self) -> float:
        """Seconds since this command started or resumed the sweep."""
        return time.monotonic() - self._began

    @property
    def seconds_left(self) -> float | None:
        """Seconds of the budget that are left; None: the budget has no limit."""
        return None if self._budget_s is None else self._budget_s - self._before_s - self.seconds

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is spent."""
        left = self.seconds_left
        return left is not None and left <= 0

    def say(self, text: str) -> None:
        """Show a message of one line."""
        self._show(Note(text))

    def waiting(self, holder: str) -> None:
        """Show which other process this one waits for."""
        self.say(f"waiting for {holder}, which computes these activations now")

    def computing(self, images: int, total: int) -> None:
        """Show how many of `total` views of images have gone through the trunk."""
        self._show(TrunkComputing(images, total))

    def advanced(self, trial: Trial, epoch: TrialEpoch | None) -> None:
        """Show that a trial has finished an epoch; None: that it has started."""
        self._show(
            TrialAdvanced(
                trial.number,
                trial.changes,
                epoch.epoch if epoch else 0,
                trial.spec.train.epochs,
                epoch.value_of(self._metric) if epoch else None,
            )
        )

    def record(
        self, trial: Trial, progress: Progress | None = None, error: str | None = None
    ) -> TrialRecord:
        """Commit and show a trial that has ended.

        Args:
            trial: the trial, with the changes that it ended with.
            progress: its last progress; None: it made none.
            error: what the trial failed of, on one line; None: it did not fail.

        Raises:
            RunFailed: a newer attempt at the sweep has taken over.
        """
        progress = progress or Progress()
        record = TrialRecord(
            number=trial.number,
            id=trial.id,
            changes=trial.changes,
            state="failed" if error else progress.state,
            epochs=progress.epochs,
            seconds=round(progress.seconds, 3),
            ended_s=round(self._before_s + self.seconds, 3),
            run=progress.run,
            checkpoint=progress.checkpoint,
            error=error or progress.diverged,
        )
        self._fence()
        put_trial(self._store, self._id, record)
        self.trunk_images += progress.trunk_images
        self.records[trial.number] = record
        self._show(TrialEnded(record))
        return record
