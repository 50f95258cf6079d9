"""Showing reports of all kinds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group

from graft.cli.show.output import emit, note

if TYPE_CHECKING:
    from graft.decisions.records import Held
    from graft.report.publishing import Report
    from graft.store import Store


def show_report(
    store: "Store",
    report: "Report",
    out: Path | None,
    json: bool,
    held: "tuple[int, Held] | None" = None,
) -> None:
    """Print a report's figures; where `out` is a folder, write its page and pictures there.

    `held`: number of the decision in force, and how it answers for the same images.
    """
    from graft.report.publishing import PAGE, write_out

    if out:
        write_out(store, report, out)
        note(f"the page: {out / PAGE}")
    document = _document(store, report) if json else {}
    if held is None:
        emit(document, json, lambda: _figures(report))
        return
    from graft.cli.show.decision import held_facts

    number, answers = held
    document["decision"] = {"number": number, **answers.model_dump(mode="json")}
    emit(document, json, lambda: Group(_figures(report), held_facts(number, answers)))


def _document(store: "Store", report: "Report") -> dict[str, Any]:
    """Return a report's figures, also those that lie in a file of their own."""
    from graft.training.confusion_matrix import FILE, read_confusion

    document = report.document()
    if confusion := report.files.get(FILE):
        document["confusion"] = read_confusion(store, report.folder, confusion).counts.tolist()
    return document


def _figures(report: "Report") -> Group:
    if report.kind == "evaluation":
        from graft.cli.show.evaluation import scores_page
        from graft.report.evaluation.scores import Scores

        return scores_page(Scores.model_validate(report.found))
    from graft.cli.show.transfer import answers_page
    from graft.report.transfer.answers import Answers

    return answers_page(Answers.model_validate(report.found))
