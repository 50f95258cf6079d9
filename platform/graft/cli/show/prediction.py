"""Drawing what came of a prediction."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from graft.cli.show.tables import facts, rows_left_out, unfinished
from graft.units import duration

if TYPE_CHECKING:
    from graft.parts.pace import Pace
    from graft.prediction.records import Begun, Finished

SHOWN = 12
"""Decisions in a table; --json has all."""


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
