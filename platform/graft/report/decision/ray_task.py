"""Calibrating on the connected Ray: a worker, not the driver, loads the model and the images."""

import ray

from graft.data.manifest import open_dataset
from graft.decisions.records import Decision
from graft.errors import RunFailed
from graft.registry import ModelVersion
from graft.spec import Scaling
from graft.store import Store


def calibrate_on_ray(store: Store, version: ModelVersion, scaling: Scaling) -> Decision:
    """Calibrate a version by the dataset that it was trained on, as `calibrate_version` does.

    Raises:
        GraftError: as `calibrate_version`.
        RunFailed: the worker died.
    """
    uri, lineage = store.uri, version.lineage

    def run() -> Decision:
        from graft.report.decision.calibrate import calibrate_version

        opened = Store.open(uri)
        dataset = open_dataset(opened, lineage.dataset, lineage.dataset_version)
        return calibrate_version(opened, version, dataset, scaling, lambda done, total: None)

    task = ray.remote(num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker)(run)
    try:
        decision: Decision = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"{version.ref} is registered, but the process that calibrated it died: "
            f"{str(error).splitlines()[0]}; `graft models calibrate {version.ref}` tries it again"
        ) from error
    return decision
