"""`graft demo`: the main job, whole, without network or data of one's own."""

from typing import TYPE_CHECKING

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from rich.table import Table

    from graft.demo.run import Demo
    from graft.store import Store


def demo(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """Show it all: import, pretrain, transfer to few labels, register, serve, ask.

    Needs no network and no data: letters and figures are rendered, the handwritten
    digits come with scikit-learn. Takes a few minutes; stops everything it started.
    """
    from graft.store import Store

    run_and_show(Store.open(store), json)


def run_and_show(store: "Store", json: bool) -> "Demo":
    """Run the demo, show its progress and then what it found; return that."""
    from graft.cli.output import console, emit
    from graft.cli.training import TrainingProgress
    from graft.cluster.local import ray_session

    with ray_session():
        from graft.demo.run import run_demo

        found = run_demo(store, console.print, TrainingProgress)
    emit(found.document(), json, lambda: _table(found))
    return found


def _table(found: "Demo") -> "Table":
    from rich.table import Table

    table = Table("", "model", "labels", "epochs", "seconds", "accuracy")
    for run in (found.pretraining, found.pretrained, found.scratch):
        table.add_row(
            run.name,
            run.model,
            str(run.images),
            str(run.epochs),
            f"{run.seconds:.0f}",
            f"{run.accuracy:.3f}",
        )
    served = f"{found.right} of {found.asked} right over HTTP, {found.requests_per_second:.0f}/s"
    table.caption = f"served {found.served}: {served}; all in {found.seconds:.0f} s"
    return table
