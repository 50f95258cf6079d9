"""`graft evaluate MODEL`: how good a model version is, on a page."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, DatasetRef, Debug, Json, Out, Split, StoreUri


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]")],
    dataset: DatasetRef = None,
    split: Split = None,
    out: Out = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a model: accuracy with its interval, classes, calibration, its worst mistakes.

    In this process, without Ray. The report is kept in the store; asked again, it is there.
    """
    from graft.cli.evaluation import images_of, scores_page, threads
    from graft.cli.output import console, counting, emit
    from graft.registry import get_model
    from graft.report.reports import (
        PAGE,
        check_out,
        evaluation_id,
        has_report,
        read_report,
        write_out,
    )
    from graft.store import Store

    check_out(out)
    opened = Store.open(store)
    version = get_model(opened, model)
    images, chosen = images_of(opened, version, dataset, split)
    if split is None and chosen == "val":
        console.print(
            f"{images.manifest.ref} has no test images: these are of validation, which chose the "
            "model's epoch",
            highlight=False,
            soft_wrap=True,
        )

    known = evaluation_id(version, images.manifest, chosen)
    if has_report(opened, known):
        report = read_report(opened, known)  # at once, without torch
    else:
        from graft.report.evaluation import evaluate

        with counting("predicting") as progress:
            report = evaluate(opened, version, images, chosen, threads(), progress)

    from graft.report.scores import Scores

    if out:
        write_out(opened, report, out)
        console.print(f"the page: {out / PAGE}", highlight=False, soft_wrap=True)
    emit(report.document(), json, lambda: scores_page(Scores.model_validate(report.found)))
