"""Drawing what came of a prediction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from graft.cli.show.output import console, note, progress_bar
from graft.cli.show.tables import facts, rows_left_out, unfinished
from graft.units import duration

if TYPE_CHECKING:
    from graft.prediction.pace import Pace
    from graft.prediction.records import Begun, Finished

SHOWN = 12
"""Decisions in a table; --json has all."""
LINE_EVERY_S = 30.0
"""Seconds between lines on how far a prediction is, at least."""


def prediction_page(finished: "Finished") -> Group:
    """Return what came of a prediction for people to read."""
    rows = {
        "prediction": finished.prediction,
        "model": finished.model,
        "answers by": "the likeliest class"
        if finished.decision is None
        else f"decision {finished.decision}",
        "source": finished.source,
        "images": f"{finished.images:,}",
        "answers": f"{finished.out}/answers, {len(finished.parts):,} files",
        "time": duration(finished.seconds),
    }
    if finished.broken:
        rows["unusable files"] = (
            f"{finished.unusable:,}: {finished.out}/broken/{finished.broken.name}"
        )
    if finished.not_compared:
        rows["not compared"] = finished.not_compared
    if compared := finished.compared:
        rows["compared"] = (
            f"{compared.changed:,} of {compared.images:,} images are decided otherwise than by "
            f"{compared.model} ({compared.against}): {finished.out}/changes/{compared.changes.name}"
        )
        if compared.only_here or compared.only_there:
            rows["not compared"] = (
                f"{compared.only_here:,} images are only here, {compared.only_there:,} only there"
            )
    caption = rows_left_out(len(finished.decisions), SHOWN, "decisions")
    table = Table("decision", "images", "share", caption=caption)
    for name, count in list(finished.decisions.items())[:SHOWN]:
        table.add_row(escape(name), f"{count:,}", f"{100 * count / finished.images:.1f} %")
    return Group(facts(None, rows), table)


def progress_page(begun: "Begun", pace: "Pace | None") -> Group:
    """Return how far a prediction is that has not ended."""
    resume = f"graft predict-batch --resume {begun.prediction}"
    rows = {
        "prediction": begun.prediction,
        "model": begun.model,
        "files": f"{begun.images:,}",
        "state": unfinished(str(pace) if pace else "not begun", resume),
    }
    return Group(facts(None, rows))


@contextmanager
def showing_pace() -> Iterator[Callable[["Pace"], None]]:
    """Yield a function that shows how far a prediction is.

    In a bar; where no terminal shows one, such as in a pod's log, on a line each half minute.
    """
    from graft.prediction.pace import Throttle

    turn = Throttle(LINE_EVERY_S)
    bar = progress_bar()
    task = bar.add_task("predicting", total=None, numbers="")

    def show(pace: "Pace") -> None:
        if not console.is_terminal:
            if pace.done and turn.is_due():
                note(str(pace))
            return
        bar.start()
        rate = pace.files_per_second
        numbers = f"{pace.done:,}/{pace.of:,} files" + (f" {rate:,.1f}/s" if rate else "")
        bar.update(task, completed=pace.done, total=pace.of, numbers=numbers)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
