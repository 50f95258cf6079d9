"""What a running sweep tells whoever shows it."""

from dataclasses import dataclass

from graft.sweep.results import TrialRecord
from graft.sweep.space import Changes


@dataclass(frozen=True)
class Noted:
    """Something that a person wants to know, on a line."""

    text: str


@dataclass(frozen=True)
class Computing:
    """Views of images have gone through the trunk that trials share."""

    images: int
    total: int


@dataclass(frozen=True)
class Advanced:
    """A trial has started, or an epoch of it is done."""

    number: int
    changes: Changes
    epoch: int
    """The last one done; 0: it has started."""
    epochs: int
    """As many as it has, if nothing stops it."""
    value: float | None
    """Of the sweep's metric after that epoch, where there is one."""


@dataclass(frozen=True)
class Done:
    """A trial is done, one way or another, and committed."""

    record: TrialRecord


SweepEvent = Noted | Computing | Advanced | Done
