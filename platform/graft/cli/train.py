"""`graft train SPEC`: run a fine-tuning job."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from graft.store import Store


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


def run_and_show(store: "Store", run: str, json: bool) -> None:
    """Run, or go on with, a recorded run; show its progress and then its result."""
    from graft.cli.output import console, emit
    from graft.cli.progress import TrainingProgress
    from graft.cli.runs import result_table
    from graft.cluster.local import ray_session
    from graft.training.runs import read_result, read_spec

    spec, result = read_spec(store, run), read_result(store, run)
    if result:
        console.print(f"{run} has finished already; nothing was trained", highlight=False)
    else:
        with ray_session(), TrainingProgress(run, spec) as show:
            from graft.training.worker import run_finetune

            result = run_finetune(store, run, show)

    emit(result.model_dump(mode="json"), json, lambda: result_table(result, spec))
