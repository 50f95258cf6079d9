"""Progress of a running sweep: trials that end are recorded in the store at once, and shown."""

import contextlib
import time
from collections.abc import Callable, Iterable

from graft.errors import StoreError
from graft.registry import Fence
from graft.spec import Sweep
from graft.store import Store
from graft.sweep.best_trial import best_trial
from graft.sweep.sweep_events import SweepEvent, TrialAdvanced, TrialEnded
from graft.sweep.sweep_plan import Trial
from graft.sweep.sweep_records import BestTrial, TrialEpoch, TrialRecord, put_trial, read_trials
from graft.sweep.tails import keeps_all, remove_tails, trials_share
from graft.sweep.trial import Progress
from graft.sweep.trial_checkpoint import remove_trial_checkpoints
from graft.training.events import Note, TrunkComputing

Show = Callable[[SweepEvent], None]


class TrialRecorder:
    """Records a sweep's trials, shows their progress, and watches the time budget."""

    def __init__(self, store: Store, sweep_id: str, sweep: Sweep, show: Show, fence: Fence):
        self._store, self._id, self._sweep = store, sweep_id, sweep
        self._metric, self._budget_s = sweep.search.metric, sweep.budget.wall_time_s
        self._show, self._fence = show, fence
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

    def pass_on(self, event: object) -> None:
        """Show what a trial's own process says, or a run's, if it is a message for people."""
        if isinstance(event, Note):
            self._show(event)

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
            setup_s=round(progress.setup_s, 3),
            ended_s=round(self._before_s + self.seconds, 3),
            run=progress.run,
            checkpoint=progress.checkpoint,
            error=error or progress.diverged,
        )
        self._fence()
        put_trial(self._store, self._id, record)
        self.trunk_images += progress.trunk_images
        before = self._best()
        self.records[trial.number] = record
        self._remove_tails({trial.number} | ({before.number} if before else set()))
        with contextlib.suppress(StoreError):  # it takes space, and nothing else
            remove_trial_checkpoints(self._store, self._id, trial.number)
        self._show(TrialEnded(record))
        return record

    def _best(self) -> BestTrial | None:
        """Return the best of the trials that have ended."""
        search = self._sweep.search
        return best_trial(self.records.values(), search.metric, search.mode)

    def _remove_tails(self, trials: Iterable[int]) -> None:
        """Remove what need not stay of these trials' tails."""
        if keeps_all(self._sweep) or trials_share(self._sweep):
            return
        best = self._best()
        kept = {self.records[best.number].checkpoint} if best else set()
        for number in trials:
            remove_tails(self._store, self._id, kept, number)
