"""What runs first, and what no time was left for: `clock.py`, on a file of tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each runs pytest

TESTS = Path(__file__).parents[2]
SCENARIOS = """
import os, time

def test_chart(): pass
def test_sweep_of_six():
    if "late_after_sweep" in os.environ:
        time.time = lambda: 1e12
def test_cancel_while_training(): assert False
def test_finetune(): pass
"""


def run(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Return pytest's exit code and what it said."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(SCENARIOS)
    plugins = ["-p", "cluster.e2e.clock", "-p", "quality.retries", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *plugins, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": ""} | environment,
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


def test_scenarios_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    code, said = run(tmp_path, "--first", "finetune, sweep", "--then", "cancel", "-k", "not chart")
    assert code == 1
    first_tries = said.partition("second try")[0]
    names = ("test_finetune", "test_sweep_of_six", "test_cancel_while_training")
    places = [first_tries.index(f"::{name}") for name in names]
    assert places == sorted(places)
    assert "NOT RUN" not in said
    code, said = run(tmp_path, "--first", "swep")
    assert code == 4
    assert "no scenario's name begins with 'swep'" in said


def test_what_no_time_is_left_for_is_named_and_the_first_run_all_the_same(tmp_path: Path) -> None:
    late = ("--deadline", str(time.time() - 1))
    code, said = run(tmp_path, *late)
    assert code == 0
    assert said.count("NOT RUN: test_it.py::test_") == 4
    code, said = run(tmp_path, *late, "--first", "chart,cancel")
    assert code == 1
    assert "FAILED twice: test_it.py::test_cancel_while_training" in said
    assert "::test_chart PASSED" in said
    assert said.count("NOT RUN: test_it.py::test_") == 2


def test_what_comes_next_has_time_of_its_own_after_the_first(tmp_path: Path) -> None:
    late = ("--deadline", str(time.time() - 1), "--first", "finetune", "--then", "sweep,chart")
    code, said = run(tmp_path, *late, "--then-for", "3600")
    assert code == 0
    assert said.count(" PASSED") == 3
    assert said.count("NOT RUN") == said.count("NOT RUN: test_it.py::test_cancel_while_training")
    code, said = run(tmp_path, *late, "--then-for", "3600", late_after_sweep="1")
    assert code == 0
    assert said.count(" PASSED") == 2
    assert "NOT RUN: test_it.py::test_chart" in said


def test_what_failed_stays_failed_where_no_time_is_left_for_a_second_try(tmp_path: Path) -> None:
    soon = ("--deadline", str(time.time() + 3600), "--then", "cancel,sweep")
    code, said = run(tmp_path, *soon, late_after_sweep="1")
    assert code == 1
    assert "FAILED, with no whole second try: test_it.py::test_cancel_while_training" in said
    assert "NOT RUN: test_it.py::test_chart" in said
    assert said.count("NOT RUN") == 2
