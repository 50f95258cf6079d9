"""`graft sweep SPEC`: vary a fine-tuning job and find the best."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri


def sweep(
    spec: Annotated[
        str | None, typer.Argument(help="Job spec (YAML), kind: sweep.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: base.train.epochs=3."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show trials, order, trunks and forecast; run nothing.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with a sweep that was stopped; instead of a spec."),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train variations of a fine-tuning job, on Ray Tune; register the best.

    Each frozen trunk is computed once for all trials that share it.
    """
    from graft.cli.output import console, emit
    from graft.cli.sweeping import plan_document, plan_table, run_and_show
    from graft.errors import InputError
    from graft.spec import Sweep, load_job
    from graft.store import Store
    from graft.sweep.results import create_sweep, read_sweep

    if resume is not None:
        if spec is not None or set_ or plan:
            raise InputError(
                "--resume goes on with a sweep as it was recorded; "
                "it takes no spec, no --set and no --plan"
            )
        opened = Store.open(store)
        read_sweep(opened, resume)
        run_and_show(opened, resume, json)
        return
    if spec is None:
        raise InputError("expected a spec, such as jobs/sweep.yaml, or --resume ID")
    job = load_job(spec, set_ or [], Sweep)
    opened = Store.open(store)

    from graft.sweep.plan import TWO_CORES
    from graft.sweep.resolve import prepare_sweep
    from graft.sweep.results import warm_trials

    warm = warm_trials(opened, job)
    # A measurement takes a second or two, which a run needs only to see whether a budget will do.
    measured = plan or job.budget.wall_time_s is not None
    recorded, planned = prepare_sweep(opened, job, None if measured else TWO_CORES)
    if warm:
        console.print(f"{len(warm)} trials of {job.warm_start} to learn from", highlight=False)
    if plan:
        document = plan_document(recorded, planned)
        emit(document, json, lambda: plan_table(recorded, planned))
        return
    run_and_show(opened, create_sweep(opened, recorded, planned), json)
