"""What a command prints: its result on stdout, everything else on stderr."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from typing import Any

from rich.console import Console, RenderableType

console = Console(stderr=True)
"""For progress, logs and notes."""


@contextmanager
def counting(what: str, of: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Give what shows how many of how many are done; nothing is shown before the first."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {of}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(what, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def emit(document: Mapping[str, Any], json: bool, render: Callable[[], RenderableType]) -> None:
    """Print a command's result: `document` as JSON, or what `render` makes for people to read."""
    if json:
        print(dumps(document, indent=2))
    else:
        Console().print(render())
