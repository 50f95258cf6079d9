"""Drawing lists of submitted jobs."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from graft.cluster.status import JobStatus
from graft.units import duration


def jobs_table(statuses: Iterable[JobStatus]) -> Table:
    """Return a table of jobs; an id is there to be copied, so it is never cut."""
    table = Table(
        Column("job", no_wrap=True), "age", "owner", "state", Column("", overflow="fold", ratio=1)
    )
    for status in statuses:
        progress = status.progress if status.state == "running" else status.why
        more = escape(status.model or progress or "")
        owner = escape(status.owner or "")
        table.add_row(status.job, age(status.submitted), owner, status.state, more)
    return table


def age(time: str | None) -> str:
    """Return how long ago something was; ISO 8601 in UTC."""
    if time is None:
        return ""
    passed = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    return f"{passed / 86400:.0f} d" if passed >= 2 * 86400 else duration(max(passed, 0.0))


def sums_by_owner(statuses: Iterable[JobStatus]) -> list[dict[str, Any]]:
    """Return jobs and GPU hours of each owner, who has taken the most first."""
    sums: dict[str, dict[str, Any]] = {}
    for status in statuses:
        owner = status.owner or "not known"
        total = sums.setdefault(owner, {"owner": owner, "jobs": 0, "gpu_hours": 0.0})
        total["jobs"] += 1
        total["gpu_hours"] += status.gpu_hours
    return sorted(sums.values(), key=lambda total: -total["gpu_hours"])


def owners_table(sums: Iterable[dict[str, Any]]) -> Table:
    """Return a table of what owners' jobs have taken."""
    table = Table("owner", Column("jobs", justify="right"), Column("GPU hours", justify="right"))
    for total in sums:
        table.add_row(escape(total["owner"]), str(total["jobs"]), f"{total['gpu_hours']:.1f}")
    return table
