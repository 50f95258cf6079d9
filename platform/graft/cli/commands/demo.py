"""`graft demo`: the main job, whole, without network or data of one's own."""

from typing import TYPE_CHECKING

from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store
from graft.units import duration

if TYPE_CHECKING:
    from rich.table import Table

    from graft.demo.run_demo import DemoResult
    from graft.registry import Mover
    from graft.store import Store


def demo(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """Show it all: import, pretrain, transfer, register, serve, ask.

    Needs no network and no data: letters and figures are rendered, the handwritten
    digits come with scikit-learn. Takes a few minutes; stops everything it started.

    Example: graft demo --store demo-store
    """
    run_demo_and_show(open_store(store), json, mover_of("graft demo"))


def run_demo_and_show(store: "Store", json: bool, mover: "Mover") -> "DemoResult":
    """Run the demo, show its progress and then its result; return that.

    `mover` is who moves its aliases.
    """
    from graft.cli.show.output import console, emit
    from graft.cli.show.training import training_progress
    from graft.cluster.local_ray import ray_session

    with ray_session():
        from graft.demo.run_demo import run_demo

        result = run_demo(store, console.print, training_progress, mover)
    emit(result.document(), json, lambda: _table(result))
    return result


def _table(result: "DemoResult") -> "Table":
    from rich.table import Table

    table = Table("", "model", "labels", "epochs", "seconds", "accuracy")
    for run in (result.pretraining, result.pretrained, result.scratch):
        table.add_row(
            run.name,
            run.model,
            str(run.images),
            str(run.epochs),
            f"{run.seconds:.0f}",
            f"{run.accuracy:.3f}",
        )
    served = f"{result.right} of {result.asked} right over HTTP, {result.requests_per_second:.0f}/s"
    table.caption = f"served {result.served}: {served}; all in {duration(result.seconds)}"
    return table
