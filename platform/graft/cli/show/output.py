"""How a command prints: its result on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from graft.errors import ObjectDamaged

WIDE = 200
"""Columns of output that no terminal shows and for which COLUMNS says nothing: rich takes 80 then,
in which the numbers of a table are in pieces."""

console = Console(stderr=True)
"""For progress, logs and notes."""


def emit(document: Mapping[str, Any], json: bool, render: Callable[[], RenderableType]) -> None:
    """Print a command's result: `document` as JSON, or what `render` makes for people to read.

    Where a table is too wide, its cells are broken into lines and never cut.
    """
    if json:
        print(dumps(document, indent=2))
        return
    shown = Console()
    if not shown.is_terminal and "COLUMNS" not in os.environ:
        shown = Console(width=WIDE)
    shown.print(_uncut(render()))


def _uncut(page: RenderableType) -> RenderableType:
    """Return a page whose tables fold what they would cut."""
    if isinstance(page, Table):
        for column in page.columns:
            column.overflow = "fold"
    elif isinstance(page, Group):
        for part in page.renderables:
            _uncut(part)
    return page


def note(text: str) -> None:
    """Tell the user something that is neither result nor error; the terminal breaks its lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def confirm(question: str) -> None:
    """Ask on stderr, and end the command unless the answer is yes.

    Raises:
        InputError: there is no terminal to answer at.
    """
    from graft.errors import InputError

    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to answer at; --yes says yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


class LeftOut:
    """What a list leaves out, since it is damaged."""

    def __init__(self) -> None:
        self._errors: list[ObjectDamaged] = []

    def add(self, error: "ObjectDamaged") -> None:
        """Note what is left out."""
        self._errors.append(error)

    def tell(self) -> None:
        """Say what is left out, after the list; the command's exit code is then the error's."""
        for error in self._errors:
            note(f"left out: {error}")
        if self._errors:
            raise typer.Exit(self._errors[0].exit_code)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that the user asked for, which is whole or not there."""
    from graft.store.directory import Directory

    Directory(path.parent.absolute()).write(path.name, data)


def progress_bar(numbers: str = "{task.fields[numbers]}") -> "Progress":
    """Return a bar that vanishes at its end: a description, the bar, `numbers`, the time left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(numbers),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def counting(description: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows a bar, given how many units are done and of how many."""
    bar = progress_bar(f"{{task.completed}}/{{task.total}} {unit}")
    task = bar.add_task(description, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
