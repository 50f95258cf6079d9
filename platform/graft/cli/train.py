"""`graft train SPEC`: run a fine-tuning job."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri


def train(
    spec: Annotated[str, typer.Argument(help="Job spec (YAML), kind: finetune.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: train.epochs=3."),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a backbone on a dataset, on Ray Train, and register the result."""
    from graft.cli.training import run_and_show
    from graft.spec import load_job
    from graft.store import Store

    job = load_job(spec, set_ or [])
    opened = Store.open(store)

    from graft.cluster.local import ray_session
    from graft.training.prepare import resolve
    from graft.training.runs import create_run

    recorded = resolve(opened, job)
    with ray_session():
        from graft.training.worker import require_resources

        require_resources(recorded.scaling)
        run_and_show(opened, create_run(opened, recorded), json)
