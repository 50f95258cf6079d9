"""The `graft` command: its verbs, and the one place where errors become messages.

Every run of the command imports every verb's file, so these import nothing heavy
before a command of theirs is called.
"""

import atexit
import contextlib
import gc
import os
import sys
import traceback
from typing import Annotated

import typer

from graft import __version__
from graft.cli import activations, backbones, data, jobs, models, report, runs, store, sweeps
from graft.cli.demo import demo
from graft.cli.evaluate import evaluate
from graft.cli.lr_find import lr_find
from graft.cli.predict import predict
from graft.cli.run_job import run_job, ship_logs
from graft.cli.serve import serve
from graft.cli.submit import submit
from graft.cli.sweep import sweep
from graft.cli.train import train
from graft.errors import GraftError

app = typer.Typer(
    name="graft",
    help="Fine-tune pretrained vision models on Ray, keep everything in S3, serve over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Not "rich", to which the brackets of NAME[@VERSION] are markup.
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"graft {__version__}")
        raise typer.Exit


@app.callback()
def _graft(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.add_typer(data.app, name="data")
app.command()(train)
app.command("lr-find")(lr_find)
app.add_typer(runs.app, name="runs")
app.command()(sweep)
app.add_typer(sweeps.app, name="sweeps")
app.command()(submit)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.command()(evaluate)
app.add_typer(report.app, name="report")
app.add_typer(backbones.app, name="backbones")
app.add_typer(activations.app, name="activations")
app.command()(serve)
app.command()(predict)
app.add_typer(store.app, name="store")
app.command()(demo)
# Of a submitted job's pods, not of people.
app.command("run-job", hidden=True)(run_job)
app.command("ship-logs", hidden=True)(ship_logs)


def script() -> None:
    """Be the command, in a process of its own: `main`, and no time lost around it."""
    # Importing torch makes objects by the million. At the usual 700, half a second goes into
    # looking for garbage among them, and a second more when the interpreter takes all apart.
    gc.set_threshold(10_000)
    status = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # the first to be registered is the last to be called
    try:
        main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise


def main() -> None:
    """Run the command line and exit: 0, 1, 2 (the user's mistake) or 130 (stopped by the user)."""
    try:
        app()
    except GraftError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        _fail(f"internal error ({reason}); run again with --debug to see where", 1)


def _fail(message: str, exit_code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    else:
        print(f"graft: {message}", file=sys.stderr)
    sys.exit(exit_code)
