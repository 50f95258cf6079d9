"""The command itself: help, version, and how errors reach the user."""

import subprocess
import sys
from pathlib import Path

import pytest

import graft

GRAFT = Path(sys.executable).with_name("graft")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GRAFT, *arguments], capture_output=True, text=True)


def test_version() -> None:
    assert run("--version").stdout == f"graft {graft.__version__}\n"


def test_help_names_the_verbs_and_every_command_its_options() -> None:
    assert "store" in run("--help").stdout
    done = run("store", "check", "--help")
    assert done.returncode == 0
    for option in ("--store", "--json", "--debug", "GRAFT_STORE"):
        assert option in done.stdout


def test_no_such_option_and_no_such_verb() -> None:
    assert "--stor" in run("store", "check", "--stor", "x").stderr
    assert run("store", "check", "--stor", "x").returncode == 2
    assert run("strain").returncode == 2


def test_a_users_mistake_is_one_line_and_exit_code_2() -> None:
    done = run("store", "check", "--store", "gs://bucket")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "graft: store 'gs://bucket': expected s3://bucket/prefix or a local directory\n"
    )


def test_debug_shows_where() -> None:
    done = run("store", "check", "--store", "gs://bucket", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("expected s3://bucket/prefix or a local directory\n")


def failing_command(statement: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real `main` with one more command in it, which executes `statement`."""
    program = f"""
import sys
from graft import errors
from graft.cli.main import app, main
@app.command()
def fail(debug: bool = False) -> None:
    {statement}
sys.argv = ["graft", "fail", *sys.argv[1:]]
main()
"""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )


def test_exit_codes() -> None:
    assert failing_command("raise errors.RunFailed('a reason')").returncode == 1
    assert failing_command("raise errors.SpecError('a reason')").returncode == 2
    assert failing_command("raise errors.Interrupted('a reason')").returncode == 130
    assert failing_command("raise KeyboardInterrupt").returncode == 130


def test_an_internal_error_is_one_line_too() -> None:
    done = failing_command("raise ValueError('first\\nsecond')")
    assert done.returncode == 1
    assert done.stderr == (
        "graft: internal error (ValueError: first); run again with --debug to see where\n"
    )
    assert "Traceback" in failing_command("raise ValueError('first')", "--debug").stderr


def test_the_store_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_STORE", "gs://bucket")
    assert "store 'gs://bucket'" in run("store", "check").stderr
