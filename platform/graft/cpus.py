"""How many CPUs this process really has: the one rule, for every pool of threads."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where cgroup v2 is mounted."""
OWN_CGROUP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Return how many threads of this process can compute at once: at least one.

    By its affinity, and by the quotas of its cgroup and of those above: a container's limit. A
    quota of one and a half is one: two threads would use it up in three quarters of each period,
    and stand still for the rest.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, math.floor(min(cpus, _quota())))


def fitting_threads(cpus: int) -> int:
    """Return how many threads compute where a process has leased `cpus`, but may have fewer."""
    return min(cpus, available_cpus())


def _quota() -> float:
    """Return the least number of CPUs that a cgroup v2 of this process allows."""
    least = math.inf
    with suppress(OSError):
        for line in OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::"):
                own = CGROUPS / line.removeprefix("0::").lstrip("/")
                for folder in (own, *own.parents):
                    if folder.is_relative_to(CGROUPS):
                        least = min(least, _quota_of(folder))
    return least


def _quota_of(cgroup: Path) -> float:
    # The root has no such file, and "max" is no number.
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return math.inf
