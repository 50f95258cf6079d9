"""`graft evaluate MODEL`: how good a model version is, on a page."""

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

    In this process, without Ray. The report stays in the store, and a second call prints it.

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
    show_report(opened, report, out, json)
