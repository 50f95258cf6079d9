"""Threads fit the CPUs that a process really has."""

import os
from pathlib import Path

import pytest

from graft import cpus
from graft.cpus import available_cpus, fitting_threads


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cgroups of a machine with 16 CPUs; this process's is ``pods/web``."""
    (tmp_path / "own").write_text("1:name=systemd:/old\n0::/pods/web\n")
    (tmp_path / "pods" / "web").mkdir(parents=True)
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    return tmp_path


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 16),
        ({"pods/web": "max 100000"}, 16),
        ({"pods/web": "400000 100000"}, 4),
        ({"pods/web": "150000 100000"}, 1),
        ({"pods/web": "20000 100000"}, 1),
        ({"pods": "300000 100000", "pods/web": "800000 100000"}, 3),
        ({".": "200000 100000"}, 2),  # a container sees its own cgroup as the root
        ({"pods/web": "no quota"}, 16),
    ],
)
def test_the_least_quota_counts(cgroups: Path, quotas: dict[str, str], expected: int) -> None:
    for folder, quota in quotas.items():
        (cgroups / folder / "cpu.max").write_text(quota)
    assert available_cpus() == expected


def test_no_more_threads_than_cpus_compute(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert (fitting_threads(1), fitting_threads(8)) == (1, 2)
    (cgroups / "own").unlink()  # no cgroup v2
    assert available_cpus() == 2
