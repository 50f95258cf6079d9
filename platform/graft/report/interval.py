"""The confidence interval of a figure, and its level: the same in every report."""

from graft.spec import Section

LEVEL = 0.95
"""Confidence level of every interval."""


class Interval(Section):
    """A confidence interval."""

    low: float
    high: float
    level: float = LEVEL
