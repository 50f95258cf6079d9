"""Evaluating on the connected Ray: a worker, not the driver, loads the model and the images."""

import ray

from graft.data.manifest import Manifest, open_dataset
from graft.registry import ModelVersion
from graft.report.publishing import Report
from graft.spec import Scaling
from graft.store import Store


def evaluate_on_ray(
    store: Store, version: ModelVersion, images: Manifest, split: str, scaling: Scaling
) -> Report:
    """Return the report on a version and a split, as `evaluate` makes it.

    Raises:
        GraftError: as `evaluate`.
    """
    uri = store.uri

    def run() -> Report:
        from graft.report.evaluation.evaluate import evaluate

        opened = Store.open(uri)
        dataset = open_dataset(opened, images.name, images.version)
        return evaluate(opened, version, dataset, split, scaling, lambda done, total: None)

    task = ray.remote(num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker)(run)
    try:
        report: Report = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    return report
