"""What failed stays failed, whatever is tried again, but for what passes then: that is flaky."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quality.retries import MOST

pytestmark = pytest.mark.slow  # each runs pytest, and only CI tries anything again

TESTS = Path(__file__).parents[1]
TRIES = """
from pathlib import Path

def tries(name):
    file = Path(__file__).with_name(name)
    file.write_text(f"{file.read_text() if file.exists() else ''}.")
    return len(file.read_text())
"""


def start(folder: Path, test: str, *options: str) -> "subprocess.Popen[str]":
    """Start pytest on a file of tests, with the plugin."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(TRIES + test)
    plugins = ["-p", "quality.retries", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugins, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, test: str, *options: str) -> tuple[int, str]:
    """Return pytest's exit code and what it said."""
    running = start(folder, test, *options)
    said, _ = running.communicate()
    print(said)
    return running.returncode, said


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one process", "two"])
def test_what_passes_on_its_second_try_is_flaky_and_fails_nothing(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    test = """
def test_sometimes(): assert tries("sometimes") == 2
def test_always(): assert tries("always") == 1
"""
    code, said = run(tmp_path, test, *options)
    assert code == 0
    assert "FLAKY, passed only on its second try: test_it.py::test_sometimes" in said
    assert "assert 1 == 2" in said
    assert "1 passed, 1 flaky" in said
    assert (tmp_path / "always").read_text() == "."


def test_what_fails_twice_or_takes_too_long_then_has_failed(tmp_path: Path) -> None:
    test = """
import time
import pytest

def test_never(): assert tries("never") == 3

@pytest.mark.timeout(3)
def test_hangs():
    assert tries("hangs") == 2
    time.sleep(60)

def test_sometimes(): assert tries("sometimes") == 2
"""
    code, said = run(tmp_path, test)
    assert code == 1
    assert "FAILED twice: test_it.py::test_never" in said
    assert "assert 2 == 3" in said
    assert "FAILED twice: test_it.py::test_hangs" in said
    assert "Timeout" in said
    assert "FLAKY, passed only on its second try: test_it.py::test_sometimes" in said
    assert "2 failed, 1 flaky" in said


def test_fixtures_of_a_second_try_are_new_those_of_the_session_too(tmp_path: Path) -> None:
    test = """
import pytest

@pytest.fixture(scope="session")
def cluster():
    assert tries("cluster") == 2
    yield
    assert tries("down") == 2

@pytest.fixture
def place(cluster, tmp_path):
    return tmp_path

def test_place(place): assert not list(place.iterdir())
def test_last(cluster): pass
"""
    code, said = run(tmp_path, test)
    assert code == 1
    assert "FLAKY, passed only on its second try: test_it.py::test_place" in said
    assert "FAILED twice: test_it.py::test_last" in said  # it has the teardown's failure


def test_a_run_that_is_cut_off_during_a_second_try_has_failed(tmp_path: Path) -> None:
    test = """
import time

def test_it():
    assert tries("it") == 2
    time.sleep(60)

def test_other(): pass
"""
    running = start(tmp_path, test)
    tries = tmp_path / "it"
    while not tries.exists() or tries.read_text() != "..":
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert "FAILED, with no whole second try: test_it.py::test_it" in said
    assert "1 failed, 1 passed" in said


def test_a_run_with_many_failures_is_not_tried_again(tmp_path: Path) -> None:
    test = f"""
import pytest
@pytest.mark.parametrize("number", range({MOST + 1}))
def test_it(number): assert tries(str(number)) == 2
"""
    code, said = run(tmp_path, test)
    assert code == 1
    assert said.count("FAILED, with no whole second try") == MOST + 1
