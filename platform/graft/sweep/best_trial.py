"""Which of a sweep's trials is best, and by which of its epochs.

Epochs are compared as `training.best_epoch_and_stopping` says, by the metric of the sweep's search.
"""

import math
from collections.abc import Iterable

from graft.sweep.sweep_records import BestTrial, TrialEpoch, TrialRecord
from graft.training.best_epoch_and_stopping import Criterion


def best_epoch(record: TrialRecord, metric: str, mode: str) -> TrialEpoch | None:
    """Return a trial's best epoch, the earlier of two alike; None of one that cannot win."""
    if record.state in ("failed", "diverged"):
        return None
    return Criterion(metric, mode).best(record.epochs)


def ranked(
    trials: Iterable[TrialRecord], metric: str, mode: str
) -> list[tuple[TrialRecord, TrialEpoch | None]]:
    """Return trials with their best epochs, the best trial first.

    Of two trials with the same metric, the one with the lower validation loss comes first. Trials
    without a best epoch come last.
    """
    criterion = Criterion(metric, mode)

    def key(pair: tuple[TrialRecord, TrialEpoch | None]) -> tuple[float, float, int]:
        record, epoch = pair
        value, tie = criterion.score(epoch) if epoch else (-math.inf, -math.inf)
        return (-value, -tie, record.number)

    return sorted(((record, best_epoch(record, metric, mode)) for record in trials), key=key)


def best_trial(trials: Iterable[TrialRecord], metric: str, mode: str) -> BestTrial | None:
    """Return the trial with the best epoch of all; a failed or diverged one never wins."""
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
