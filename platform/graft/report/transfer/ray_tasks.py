"""Testing the cells of a transfer report on Ray, with what each training had."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import ray
import ray.exceptions

from graft.backbones.process_setup import set_up_process
from graft.errors import RunFailed
from graft.report.transfer.cell_result import TrainedCell
from graft.report.transfer.measure_cell import measure_cell
from graft.spec import TransferReport
from graft.store import Store
from graft.store.retries import persist
from graft.training.ray_train import require_resources

Connect = Callable[[], AbstractContextManager[None]]
"""Connects to Ray for as long as its context lasts."""


def test_cells_on_ray(
    store: Store, connect: Connect, report: str, spec: TransferReport, cells: Sequence[TrainedCell]
) -> Iterator[None]:
    """Test cells side by side, and keep each one's figures; yield whenever one is done.

    Raises:
        ResourceError: the cluster has less than a training takes.
        RunFailed: the process of a test died again and again, of too little memory for one.
    """
    uri, scaling = store.uri, spec.scaling

    def measure(trained: TrainedCell) -> None:
        device = set_up_process(scaling.cpus_per_worker, scaling.gpus_per_worker)
        persist(lambda: measure_cell(Store.open(uri), report, spec, trained, device))

    with connect():
        require_resources(scaling)
        cpus, gpus = scaling.cpus_per_worker, scaling.gpus_per_worker
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(measure)
        running = {task.remote(trained): trained for trained in cells}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            trained = running.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or error from None
            except ray.exceptions.RayError as error:
                raise RunFailed(
                    f"{report}: the process that tested {trained.name} died: "
                    f"{str(error).splitlines()[0]}; what was tested stays"
                ) from error
            yield
