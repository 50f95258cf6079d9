"""`.ci/run`, with a stand-in for make: what fails stays failed, and what did not run is named."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from quality.summary import summarise

pytestmark = pytest.mark.slow  # each runs a script of steps

ROOT = Path(__file__).parents[2]
MAKE = """#!/bin/sh
# What each target does stands in a script of its name; the others pass.
echo "$@" >> "$STAND_IN/called"
if [ -f "$STAND_IN/$1" ]; then . "$STAND_IN/$1"; else echo "== 2 passed, 1 skipped in 1.50s =="; fi
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `.ci/run` itself needs of a clone, and a make that does nothing."""
    own = ("tests/quality/summary.py", "tests/cluster/e2e/touched.py")
    for name in (".ci/run", "tests/programs.py", "tests/versions.env", *own):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE)
    (tmp_path / "bin" / "make").chmod(0o755)
    return tmp_path


def variables(clone: Path) -> dict[str, str]:
    """What it runs with: that make, and no program that is built."""
    return os.environ | {
        "PATH": f"{clone / 'bin'}:{os.environ['PATH']}",
        "STAND_IN": str(clone),
        "GRAFT_TEST_PROGRAMS": str(clone / "programs"),
    }


def built(clone: Path, name: str) -> None:
    """Have a program built."""
    (version,) = re.findall(
        rf"^{name.upper()}=(.+)", (clone / "tests/versions.env").read_text(), re.M
    )
    (clone / "programs" / f"{name}-{version}").mkdir(parents=True)


def steps(clone: Path) -> list[str]:
    """What was made in order, but for what is made behind."""
    called = (clone / "called").read_text().splitlines()
    return [words.split(" ")[0] for words in called if not words.startswith("e2e-parts")]


def run(clone: Path, **environment: str) -> tuple[int, list[str]]:
    """Return the exit code, and the lines that it says."""
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=clone,
        env=variables(clone) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    return done.returncode, done.stdout.splitlines()


def test_all_that_passes_ends_with_the_sum(clone: Path) -> None:
    built(clone, "helm")
    code, said = run(clone)
    assert code == 0
    assert steps(clone) == [
        *("install", "check", "demo", "programs", "test", "test-slow", "e2e", "e2e")
    ]
    assert said[-1] == "16 passed, 0 failed, 8 skipped"


def test_a_helm_that_was_built_behind_the_tests_is_compared_after_them(clone: Path) -> None:
    assert run(clone)[0] == 0
    assert steps(clone)[-4:] == ["test-slow", "test", "e2e", "e2e"]
    assert "TESTS=tests/helm/test_program.py" in (clone / "called").read_text()


def test_a_scenario_that_fails_and_then_runs_out_of_time_fails_ci(clone: Path) -> None:
    (clone / "e2e").write_text("""case "$*" in *control-plane*) exit 0;; esac
echo "e2e/test_jobs.py F"
exec sleep 600
""")
    code, said = run(clone, GRAFT_CI_LIMIT_S="2")
    assert code == 1
    assert "FAILED step: e2e" in said
    assert not said[-1].endswith(" 0 failed, 5 skipped")


@pytest.mark.parametrize("target", ["check", "test", "test-slow", "e2e-parts", "e2e"])
def test_what_fails_keeps_nothing_else_from_running(clone: Path, target: str) -> None:
    (clone / target).write_text("exit 1")
    code, said = run(clone)
    assert code == 1
    assert any(line.startswith("FAILED step: ") for line in said)
    assert "test-slow" in (clone / "called").read_text()


def test_a_step_that_hangs_is_cut_and_named(clone: Path) -> None:
    (clone / "demo").write_text("exec sleep 600")
    code, said = run(clone, GRAFT_CI_LIMIT_S="2")
    assert code == 1
    assert "FAILED step: demo" in said


def test_what_is_built_behind_ends_with_it(clone: Path) -> None:
    (clone / "e2e-parts").write_text(f'echo $$ > "{clone}/pid"; exec sleep 600')
    with subprocess.Popen(
        ["bash", ".ci/run"],
        cwd=clone,
        env=variables(clone),
        stdout=subprocess.DEVNULL,
    ) as ci:
        pid = _content(clone / "pid")
        ci.terminate()
        ci.wait(60)
    _wait_for_the_end_of(pid)


def test_ctrl_c_ends_the_step_that_runs_and_all_of_it(clone: Path) -> None:
    (clone / "test").write_text(f'echo $$ > "{clone}/pid"; exec sleep 600')
    with subprocess.Popen(
        ["bash", ".ci/run"],
        cwd=clone,
        env=variables(clone),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as in a terminal of its own
    ) as ci:
        pid = _content(clone / "pid")
        os.killpg(ci.pid, signal.SIGINT)
        said, _ = ci.communicate(timeout=60)
    assert ci.returncode == 130
    assert "=== test-slow" not in said
    _wait_for_the_end_of(pid)


def _wait_for_the_end_of(pid: str) -> None:
    deadline = time.monotonic() + 60
    while Path("/proc", pid).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path("/proc", pid).exists()


def _content(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return path.read_text().strip()


def test_the_end_names_what_is_flaky_and_what_did_not_run() -> None:
    log = """
FLAKY, passed only on its second try: tests/a.py::test_b
NOT RUN, its time was over: tests/cluster/e2e/test_jobs.py::test_sweep
\x1b[33mSKIPPED\x1b[0m tests/store/test_fencing.py::test_a_race - moto does not fence
\x1b[32m=========== 5 passed, 1 skipped, 1 flaky, 2 deselected in 3.1s (0:00:03) ===========\x1b[0m
"""
    said, code = summarise([log, "no test here"], [])
    assert code == 0
    assert said.splitlines() == [
        "FLAKY, passed only on its second try: tests/a.py::test_b",
        "NOT RUN, its time was over: tests/cluster/e2e/test_jobs.py::test_sweep",
        "SKIPPED tests/store/test_fencing.py::test_a_race - moto does not fence",
        "6 passed, 0 failed, 1 skipped",
    ]
    assert summarise(["== 1 failed, 2 passed in 3.00s =="], [])[1] == 1
    assert summarise([], ["install"]) == ("FAILED step: install\n0 passed, 1 failed, 0 skipped", 1)
