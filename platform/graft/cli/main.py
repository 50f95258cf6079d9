"""The `graft` command: its verbs and nouns, and the one place where errors become messages.

Every run of the command imports every file of commands/; these import what is heavy inside the
command that needs it.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from graft import __version__
from graft.cli.commands import (
    activations,
    backbones,
    data,
    jobs,
    keys,
    models,
    predictions,
    reports,
    runs,
    store,
    sweeps,
)
from graft.cli.commands.demo import demo
from graft.cli.commands.evaluate import evaluate
from graft.cli.commands.fsck import fsck
from graft.cli.commands.gc import gc as collect
from graft.cli.commands.lr_find import lr_find
from graft.cli.commands.pod_ends import pod_ends
from graft.cli.commands.predict import predict
from graft.cli.commands.predict_batch import predict_batch
from graft.cli.commands.run_job import run_job
from graft.cli.commands.serve import serve
from graft.cli.commands.ship_logs import ship_logs
from graft.cli.commands.submit import submit
from graft.cli.commands.sweep import sweep
from graft.cli.commands.train import train
from graft.cli.help import Group
from graft.errors import GraftError, Interrupted

if TYPE_CHECKING:
    from typer._click import Command, Context

FORMER = {"report": "reports"}
"""What commands were called before, by which people and scripts may still call them."""


class _Graft(Group):
    """The commands of `graft`, also by the names that they had before."""

    def resolve_command(
        self, ctx: "Context", args: list[str]
    ) -> "tuple[str | None, Command | None, list[str]]":
        return super().resolve_command(ctx, [FORMER.get(args[0], args[0]), *args[1:]])


app = typer.Typer(
    name="graft",
    cls=_Graft,
    help="Fine-tune pretrained vision models on Ray, keep everything in S3, serve over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Not "rich", to which the brackets of NAME[@VERSION] are markup.
    rich_markup_mode=None,
)


def _print_version(version: bool) -> None:
    if version:
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


COMMANDS: dict[str, dict[str, typer.Typer | Callable[..., None]]] = {
    "Get started": {"demo": demo, "data": data.app, "backbones": backbones.app},
    "Train a model": {"train": train, "lr-find": lr_find, "runs": runs.app},
    "Find the best settings": {"sweep": sweep, "sweeps": sweeps.app},
    "Run on a cluster": {"submit": submit, "jobs": jobs.app},
    "Judge a model": {"evaluate": evaluate, "models": models.app, "reports": reports.app},
    "Serve a model": {
        "serve": serve,
        "predict": predict,
        "predict-batch": predict_batch,
        "predictions": predictions.app,
        "keys": keys.app,
    },
    "Look after the store": {
        "store": store.app,
        "gc": collect,
        "fsck": fsck,
        "activations": activations.app,
    },
}
"""Verbs and nouns, by what a person is about to do."""

for section, commands in COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=section)
        else:
            app.command(name, rich_help_panel=section)(command)
# A submitted job's pods call these, people do not.
app.command("run-job", hidden=True)(run_job)
app.command("ship-logs", hidden=True)(ship_logs)
app.command("pod-ends", hidden=True)(pod_ends)


def script() -> None:
    """Run `main` as a process of its own, which loses no time at its start and its end."""
    # Importing torch makes objects by the million. With the usual threshold of 700, Python spends
    # half a second on looking for garbage among them, and a second on freeing them at the end.
    gc.set_threshold(10_000)
    status, stopped_by = 1, 0

    def terminate(number: int, *_: object) -> None:
        """End as Ctrl-C does, so that every command cleans up when it is stopped by a system."""
        nonlocal stopped_by
        stopped_by = number
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, terminate)

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # registered first, so called last
    try:
        main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if stopped_by and status == Interrupted.exit_code:
            status = 128 + stopped_by
        raise


def main() -> None:
    """Run the command line and exit: 0, 1, 2 (the user's mistake) or 130 (stopped by the user).

    `script` makes 143 of 130 where SIGTERM stopped it, and 129 where its terminal closed (SIGHUP).
    """
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
