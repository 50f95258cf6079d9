"""The command itself: help, version, and how errors reach the user."""

import subprocess
import sys
from collections.abc import Callable

import pytest

import commands
import graft
from graft import errors
from graft.cli.main import app


def run(*arguments: str) -> commands.Done:
    return subprocess.run([commands.GRAFT, *arguments], capture_output=True, text=True)


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


@pytest.fixture
def fail() -> Callable[..., commands.Done]:
    """Runs the real `main` with one more command in it, which raises an error."""

    def run(error: BaseException, *arguments: str) -> commands.Done:
        def fail(debug: bool = False) -> None:
            raise error

        app.command()(fail)
        try:
            return commands.main("fail", *arguments)
        finally:
            app.registered_commands.pop()

    return run


def test_exit_codes(fail: Callable[..., commands.Done]) -> None:
    assert fail(errors.RunFailed("a reason")).returncode == 1
    assert fail(errors.SpecError("a reason")).returncode == 2
    assert fail(errors.Interrupted("a reason")).returncode == 130
    assert fail(KeyboardInterrupt()).returncode == 130


def test_an_internal_error_is_one_line_too(fail: Callable[..., commands.Done]) -> None:
    done = fail(ValueError("first\nsecond"))
    assert done.returncode == 1
    assert done.stderr == (
        "graft: internal error (ValueError: first); run again with --debug to see where\n"
    )
    assert "Traceback" in fail(ValueError("first"), "--debug").stderr


def test_the_exit_code_is_that_of_the_process() -> None:
    program = """
import sys
from graft import errors
from graft.cli.main import app, script
@app.command()
def fail() -> None:
    raise errors.Interrupted("a reason")
sys.argv = ["graft", "fail"]
script()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "graft: a reason\n")


def test_the_store_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_STORE", "gs://bucket")
    assert "store 'gs://bucket'" in run("store", "check").stderr
