"""`graft report`: what was measured once, and is kept in the store."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, Out, StoreUri
from graft.cli.transfer import transfer

app = typer.Typer(no_args_is_help=True, help="Make, list and show reports.")
app.command()(transfer)


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """List reports."""
    from rich.table import Column, Table

    from graft.cli.output import emit
    from graft.report.reports import list_reports, read_report
    from graft.store import Store

    opened = Store.open(store)
    found = [read_report(opened, report) for report in list_reports(opened)]

    def table() -> Table:
        table = Table(Column("report", overflow="fold"), "kind", "created")
        for one in sorted(found, key=lambda one: one.created):
            table.add_row(one.report, one.kind, one.created[:19].replace("T", " "))
        return table

    keys = {"report", "kind", "created"}
    emit({"reports": [one.model_dump(mode="json", include=keys) for one in found]}, json, table)


@app.command()
def show(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="A report's id.")],
    out: Out = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a report's figures; --out writes its page."""
    from rich.console import Group

    from graft.cli.evaluation import scores_page
    from graft.cli.output import console, emit
    from graft.report.reports import PAGE, check_out, read_report, write_out
    from graft.store import Store

    check_out(out)
    opened = Store.open(store)
    found = read_report(opened, report)

    def page() -> Group:
        from graft.report.scores import Scores

        if found.kind == "evaluation":
            return scores_page(Scores.model_validate(found.found))
        from graft.cli.transfer import answers_page
        from graft.report.answers import Answers

        return answers_page(Answers.model_validate(found.found))

    if out:
        write_out(opened, found, out)
        console.print(f"the page: {out / PAGE}", highlight=False, soft_wrap=True)
    emit(found.document(), json, page)
