"""Events of a running sweep, for whoever shows its progress."""

from dataclasses import dataclass

from graft.spec import Changes
from graft.sweep.sweep_records import TrialRecord
from graft.training.events import Note, TrunkComputing


@dataclass(frozen=True)
class TrialAdvanced:
    """A trial has started, or an epoch of it is done."""

    number: int
    changes: Changes
    epoch: int
    """Last finished epoch, from 1; 0: the trial has started."""
    epochs: int
    """Number of epochs of the trial, if nothing stops it before."""
    value: float | None
    """The sweep's metric after that epoch; None: it has none."""


@dataclass(frozen=True)
class TrialEnded:
    """A trial has ended, in whichever state, and its record is committed."""

    record: TrialRecord


SweepEvent = Note | TrunkComputing | TrialAdvanced | TrialEnded
