"""Showing how far a work in parts is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from graft.cli.show.output import console, note, progress_bar
from graft.parts.pace import Pace, Throttle

LINE_EVERY_S = 30.0
"""Seconds between lines on how far a work is, at least."""

_Pace = TypeVar("_Pace", bound=Pace)


@contextmanager
def showing_pace(doing: Callable[[_Pace], str]) -> Iterator[Callable[[_Pace], None]]:
    """Yield a function that shows how far a work is; `doing`: what is being done at that point.

    In a bar; where no terminal shows one, such as in a pod's log, on a line each half minute.
    """
    turn = Throttle(LINE_EVERY_S)
    bar = progress_bar()
    task = bar.add_task("", total=None, numbers="")

    def show(pace: _Pace) -> None:
        if not console.is_terminal:
            if pace.done and turn.is_due():
                note(str(pace))
            return
        bar.start()
        rate = pace.files_per_second
        numbers = f"{pace.done:,}/{pace.of:,} files" + (f" {rate:,.1f}/s" if rate else "")
        bar.update(
            task, description=doing(pace), completed=pace.done, total=pace.of, numbers=numbers
        )

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
