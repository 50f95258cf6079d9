"""`graft evaluate MODEL`: how good a model version is, on a page."""

from typing import TYPE_CHECKING

from graft.cli.options import (
    DEFAULT_STORE,
    DatasetRef,
    Gpus,
    Json,
    Model,
    Out,
    Split,
    StoreUri,
    open_store,
)

if TYPE_CHECKING:
    from graft.decisions.records import Held
    from graft.registry import ModelVersion
    from graft.report.publishing import Report
    from graft.store import Store


def evaluate(
    model: Model,
    dataset: DatasetRef = None,
    split: Split = None,
    out: Out = None,
    gpus: Gpus = 0,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Evaluate a model: accuracy, classes, calibration, mistakes.

    In this process, without Ray. The report stays in the store, and a second call prints it. Where
    the version has a decision, what it answers for the same images is told, too.

    Example: graft evaluate ants-bees --out page
    """
    from graft.cli.dataset_refs import evaluation_images
    from graft.cli.show.output import counting, note
    from graft.cli.show.report import show_report
    from graft.registry import get_model
    from graft.report.publishing import check_out, evaluation_id, has_report, read_report

    check_out(out)
    opened = open_store(store)
    version = get_model(opened, model)
    images, chosen = evaluation_images(opened, version, dataset, split)
    if split is None and chosen == "val":
        note(
            f"{images.manifest.ref} has no test images: these are of validation, which chose the "
            "model's epoch"
        )
    report_id = evaluation_id(version, images.manifest, chosen)
    if has_report(opened, report_id):
        report = read_report(opened, report_id)  # at once, without torch
    else:
        from graft.cpus import available_cpus
        from graft.report.evaluation.evaluate import evaluate
        from graft.spec import Scaling

        cpus = available_cpus()
        scaling = Scaling(cpus_per_worker=cpus, gpus_per_worker=gpus)
        with counting("predicting") as progress:
            report = evaluate(opened, version, images, chosen, scaling, progress)
    show_report(opened, report, out, json, held_by_decision(opened, version, report))


def held_by_decision(
    store: "Store", version: "ModelVersion", report: "Report"
) -> "tuple[int, Held] | None":
    """Return the number of the decision in force, and how it answers for an evaluation's images.

    None: the version has none.
    """
    from graft.decisions.records import decision_in_force

    decision = decision_in_force(store, version)
    if decision is None:
        return None
    from graft.report.decision.measured import judge_again  # loads torch

    return decision.number, judge_again(store, version, report, decision)
