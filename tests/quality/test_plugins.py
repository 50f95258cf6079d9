"""The plugins of these tests, each on a few tests of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from quality import cpu
from quality.scheduling import RAY, group

TESTS = Path(__file__).parents[1]


def run(folder: Path, plugin: str, *options: str) -> tuple[int, str]:
    """Run the tests of a folder under a plugin; return pytest's exit code and what it said."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n")
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini")]
    done = subprocess.run(
        [*command, "-p", f"quality.{plugin}", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


BURNS = """
import subprocess, sys, time, pytest
def burn():
    began = time.process_time()
    while time.process_time() < began + 0.3: pass
def test_itself(): burn()
def test_a_child():
    code = "import time\\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
@pytest.mark.slow
def test_slow(): burn()
"""


@pytest.mark.slow  # runs pytest
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["one process", "two"])
def test_the_fast_tests_are_held_to_their_budget(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "test_it.py").write_text(BURNS)
    for budget, over in ((0.01, True), (1000, False)):
        file = tmp_path / "budget.toml"
        file.write_text(f"fast_seconds = {budget}\nreference_seconds = 0.08\n")
        code, said = run(tmp_path, "cpu", f"--hold-budget={file}", *workers)
        assert (code, "OVER BUDGET" in said) == (int(over), over)
        assert "the 2 fast tests" in said
        (total,) = [float(line.split()[1]) for line in said.splitlines() if line[:4] == "CPU:"]
        assert total >= 0.9


STOPS = """
import subprocess, sys
from quality import cpu
spent = cpu.Spent()
code = "import time\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1)
child.stdout.readline()
print(spent.since_last())
child.communicate(b"\\n")
print(spent.since_last())
"""


def test_what_is_stopped_in_a_test_is_not_its_cost() -> None:
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", STOPS], env=environment, capture_output=True, text=True
    )
    before, after = map(float, done.stdout.split())
    assert before > 0.4 > after


def test_files_that_share_a_ray_are_one_group() -> None:
    assert group("tests/training/test_ray_train.py") == RAY
    assert group("tests/activations/test_ray_tasks.py") == RAY
    assert group("tests/data/test_splits.py") == "tests/data/test_splits.py"


@pytest.mark.slow  # it runs commands both ways
def test_a_forked_command_is_what_a_shell_would_run(tmp_path: Path) -> None:
    arguments = ("models", "show", "nobody", "--store", "store")
    shell = subprocess.run(
        [commands.GRAFT, *arguments],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "60"},
        capture_output=True,
        text=True,
    )
    spent = cpu.Spent()
    forked = commands.graft(*arguments, cwd=tmp_path, env={"COLUMNS": "60"})
    assert (forked.returncode, forked.stdout, forked.stderr) == (2, shell.stdout, shell.stderr)
    assert spent.since_last() > 0.1  # also of what another process has forked


def test_a_forked_process_has_its_exit_code_and_an_end() -> None:
    # Not os._exit: coverage puts a function of its own in its place, which cannot be sent.
    assert commands.Forked(sys.exit, 9).wait(60) == 9
    with pytest.raises(TimeoutError, match="killed after 0 s"):
        commands.Forked(time.sleep, 600).wait(0.1)
