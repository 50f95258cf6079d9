"""`graft sweep SPEC`: vary a fine-tuning job and find the best."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, Json, Settings, StoreUri, open_store

if TYPE_CHECKING:
    from graft.registry import Mover
    from graft.spec import Sweep
    from graft.store import Store
    from graft.sweep.sweep_plan import SweepPlan
    from graft.sweep.sweep_records import SweepResult


def sweep(
    spec: Annotated[
        str | None, typer.Argument(help="Job spec (YAML), kind: sweep.", show_default=False)
    ] = None,
    set_: Settings = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show trials, order, trunks and forecast; run nothing.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with a sweep that was stopped; instead of a spec."),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Train variations of a fine-tuning job; register the best.

    On Ray Tune. Each frozen trunk is computed once for all trials that share it.

    Example: graft sweep jobs/sweep.yaml --set base.train.epochs=3 --plan
    """
    from graft.cli.show.output import emit, note
    from graft.cli.show.sweep import plan_page
    from graft.errors import InputError
    from graft.spec import Sweep, load_job
    from graft.sweep.sweep_records import create_sweep, read_sweep

    if resume is not None:
        if spec is not None or set_ or plan:
            raise InputError(
                "--resume goes on with a sweep as it was recorded; "
                "it takes no spec, no --set and no --plan"
            )
        opened = open_store(store)
        read_sweep(opened, resume)
        run_sweep_and_show(opened, resume, json, mover_of("graft sweep --resume"))
        return
    if spec is None:
        raise InputError("expected a spec, such as jobs/sweep.yaml, or --resume ID")
    job = load_job(spec, set_ or [], Sweep)
    opened = open_store(store)

    from graft.sweep.prepare_sweep import prepare_sweep
    from graft.sweep.search import warm_trials
    from graft.sweep.sweep_plan import TWO_CORES

    warm = warm_trials(opened, job)
    # Measuring this machine takes a second or two. A run needs that only where a budget may be too
    # small.
    measured = plan or job.budget.wall_time_s is not None
    recorded, planned = prepare_sweep(opened, job, None if measured else TWO_CORES)
    if warm:
        note(f"{len(warm)} trials of {job.warm_start} to learn from")
    if plan:
        if recorded.base.dataset.labels_in_words:
            note(recorded.base.dataset.labels_in_words)
        emit(_plan_document(recorded, planned), json, lambda: plan_page(recorded, planned))
        return
    made = create_sweep(opened, recorded, planned)
    run_sweep_and_show(opened, made, json, mover_of("graft sweep"))


def run_sweep_and_show(
    store: "Store", sweep_id: str, json: bool, mover: "Mover", take_over: bool = False
) -> "SweepResult":
    """Run, or go on with, a recorded sweep; show its progress and then its result; return it.

    `mover` is who moves the alias that its spec names; `take_over` as `hold_attempt` has it.
    """
    from graft.cli.commands.decisions import calibrate_registered
    from graft.cli.show.output import emit
    from graft.cli.show.sweep import result_page
    from graft.sweep.sweep_records import read_sweep

    result = run_with_progress(store, sweep_id, mover, take_over)
    recorded = read_sweep(store, sweep_id)
    calibrate_registered(store, recorded.register_, result.model, recorded.base.scaling)
    emit(result.model_dump(mode="json"), json, lambda: result_page(result))
    return result


def run_with_progress(
    store: "Store", sweep_id: str, mover: "Mover", take_over: bool = False
) -> "SweepResult":
    """Run, or go on with, a recorded sweep; show its progress and return its result."""
    from graft.cli.show.output import note
    from graft.cli.show.sweep import sweep_progress
    from graft.cluster.local_ray import ray_session
    from graft.sweep.sweep_records import read_plan, read_sweep, read_sweep_result

    if result := read_sweep_result(store, sweep_id):
        note(f"{sweep_id} has finished already; nothing was trained")
        return result
    recorded, trials = read_sweep(store, sweep_id), read_plan(store, sweep_id).count
    with sweep_progress(sweep_id, recorded, trials) as show:
        from graft.sweep.run_sweep import run_sweep

        return run_sweep(store, sweep_id, show, ray_session, mover, take_over)


def _plan_document(sweep: "Sweep", plan: "SweepPlan") -> dict[str, Any]:
    document = plan.model_dump(mode="json", by_alias=True)
    return {
        "sweep": sweep.name,
        "search": sweep.search.kind,
        "scheduler": sweep.scheduler.kind,
        "known": bool(plan.trials),
        **document,
        "bytes": plan.bytes,
        "writes": plan.requests.writes,
        "reads": plan.requests.reads,
    }
