"""What the pages of several commands are made of."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Column, Table

from graft.spec import Job, dump_job


def facts(title: str | None, rows: Mapping[str, str]) -> Table:
    """Return a table of names and values, which are whole, since they are there to be copied."""
    table = Table("", Column(overflow="fold"), show_header=False, title=title, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def id_table(name: str, state: str, *columns: str | Column) -> Table:
    """Return an empty list of runs or sweeps; an id is there to be copied, so it is never cut."""
    return Table(
        Column(name, no_wrap=True),
        Column(state, no_wrap=True),
        *(Column(c, overflow="fold") if isinstance(c, str) else c for c in columns),
    )


def text_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a table of texts, which break within their cells."""
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def numbers(*names: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(name, justify="right") for name in names]


def rows_left_out(rows: int, shown: int, noun: str) -> str | None:
    """Return the caption of a table that shows the first `shown` rows; None if that is all."""
    return f"{rows - shown} more {noun}: --json" if rows > shown else None


def spec_text(text: str) -> Syntax:
    """Return a spec's YAML in colours."""
    return Syntax(text, "yaml", background_color="default")


def recorded_page(spec: Job, *outcome: RenderableType) -> Group:
    """Return what is shown of a run or a sweep: its recorded spec, then what became of it."""
    return Group(spec_text(dump_job(spec)), *outcome)


def unfinished(progress: str, resume: str) -> str:
    """Say how far a run or a sweep is that has no result, and which command goes on with it."""
    return f"unfinished, {progress}: {resume}"
