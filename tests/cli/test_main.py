"""The command itself: help, version, and how errors reach the user."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import commands
import graft
from graft import errors
from graft.cli.main import app

ROOT = Path(__file__).parents[2]


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


def visible(
    group: TyperGroup, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every group and command that help lists, with the words that call it."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from visible(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


@pytest.fixture(scope="module")
def listed() -> dict[tuple[str, ...], object]:
    """Every group and command that help lists, by the words that call it."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(visible(root))


def test_help_groups_commands_by_what_a_person_is_about_to_do() -> None:
    page = commands.main("--help", env={"COLUMNS": "80"}).stdout
    sections = page.partition("Get started:\n")[2].split("\n\n")
    assert [section.split()[0] for section in sections] == [
        *("demo", "Train", "Find", "Run", "Judge", "Serve", "Look")
    ]
    for verb in ("train", "sweep", "submit", "evaluate", "serve", "predict", "demo"):
        assert f"\n  {verb} " in page
    for name in ("report ", "run-job", "ship-logs"):
        assert f"\n  {name}" not in page


@pytest.mark.parametrize("columns", [60, 80])
def test_help_cuts_no_summary(listed: dict[tuple[str, ...], object], columns: int) -> None:
    for path, group in listed.items():
        if isinstance(group, TyperGroup):
            page = commands.main(*path, "--help", env={"COLUMNS": str(columns)}).stdout
            assert max(map(len, page.splitlines())) < columns
            for command in group.commands.values():
                if not command.hidden:
                    summary = (command.help or "").partition("\n\n")[0].partition(". ")[0]
                    assert " ".join(summary.split()) in " ".join(page.split())


def test_each_command_ends_its_help_with_an_example_that_can_be_typed(
    listed: dict[tuple[str, ...], object],
) -> None:
    for path, command in listed.items():
        if isinstance(command, TyperCommand):
            example = (command.epilog or "").removeprefix("Example: ")
            program, *words = shlex.split(example)
            assert (program, *words[: len(path)]) == ("graft", *path)
            # It has no option but those there are, and all arguments.
            command.make_context(path[-1], words[len(path) :])
            assert all((ROOT / word).is_file() for word in words if word.startswith("jobs/"))
    page = commands.main("train", "--help", env={"COLUMNS": "80"}).stdout
    assert page.endswith("\n  Example: graft train jobs/finetune.yaml --set train.epochs=3\n")


def test_a_command_may_be_called_by_its_former_name(tmp_path: Path) -> None:
    today, former = (
        commands.main(name, "show", "absent", "--store", tmp_path) for name in ("reports", "report")
    )
    assert "graft: no report 'absent'" in former.stderr
    assert (former.returncode, former.stderr) == (today.returncode, today.stderr)
    assert " reports ls [OPTIONS]" in commands.main("report", "ls", "--help").stdout


def test_a_command_on_jobs_has_the_options_of_a_cluster() -> None:
    options = ("--kube-context", "-n, --namespace", "--profile", "--address", "--store")
    for words in (("submit",), ("jobs", "ls"), ("jobs", "logs")):
        page = commands.main(*words, "--help", env={"COLUMNS": "80"}).stdout
        places = [page.index(f"\n  {option} ") for option in options]
        assert places == sorted(places)
        assert page.index("\n  --debug") > places[-1]


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
        def fail() -> None:
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
