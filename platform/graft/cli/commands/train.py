"""`graft train SPEC`: run a fine-tuning job."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, Json, Settings, StoreUri, open_store

if TYPE_CHECKING:
    from graft.registry import Mover
    from graft.store import Store
    from graft.training.run_records import Result


def train(
    spec: Annotated[str, typer.Argument(help="Job spec (YAML), kind: finetune.")],
    set_: Settings = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Fine-tune a backbone on a dataset and register the result.

    On Ray Train, with as many workers as the spec says. A run that is stopped goes on with
    `graft runs resume`.

    Example: graft train jobs/finetune.yaml --set train.epochs=3
    """
    from graft.spec import load_job

    job = load_job(spec, set_ or [])
    opened = open_store(store)

    from graft.cluster.local_ray import ray_session
    from graft.training.prepare_run import resolve
    from graft.training.run_records import create_run

    recorded = resolve(opened, job)
    with ray_session():
        from graft.training.ray_train import require_resources

        require_resources(recorded.scaling)
        finish_run(opened, create_run(opened, recorded), json, mover_of("graft train"))


def finish_run(
    store: "Store",
    run: str,
    json: bool,
    mover: "Mover",
    told_to_end: Callable[[], bool] | None = None,
) -> "Result":
    """Run, or go on with, a recorded run; show its progress and then its result; return it.

    `mover` is who moves the alias that its spec names; `told_to_end`: as `run_finetune` has it.
    """
    from graft.cli.commands.decisions import calibrate_registered
    from graft.cli.show.output import emit, note
    from graft.cli.show.training import result_page, training_progress
    from graft.cluster.local_ray import ray_session
    from graft.training.run_records import read_result, read_spec, with_classes

    spec, result = read_spec(store, run), read_result(store, run)
    if result:
        note(f"{run} has finished already; nothing was trained")
    else:
        with ray_session(), training_progress(run, spec) as show:
            from graft.training.ray_train import run_finetune

            result = run_finetune(store, run, show, mover, told_to_end)
    calibrate_registered(store, spec.register_, result.model, spec.scaling)
    finished = with_classes(store, result)
    emit(finished.model_dump(mode="json"), json, lambda: result_page(finished, spec))
    return result
