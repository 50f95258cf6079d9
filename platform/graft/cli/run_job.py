"""What a submitted job's pods run: `graft run-job` on the head, `graft ship-logs` beside Ray."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, StoreUri

if TYPE_CHECKING:
    from graft.spec import Evaluation, Finetune, Job, Sweep, TransferReport
    from graft.store import Store


def run_job(
    job: Annotated[str, typer.Argument(envvar="GRAFT_JOB", help="The job's id.")],
    spec: Annotated[str, typer.Argument(envvar="GRAFT_SPEC", help="Its spec, the text itself.")],
    cpus: Annotated[
        int, typer.Option(envvar="GRAFT_CPUS", help="Of its cluster, to wait for before it begins.")
    ] = 0,
    where: Annotated[
        str | None, typer.Option(envvar="GRAFT_WHERE", help="The cluster that it was sent to.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(envvar="GRAFT_CLUSTER", help="That cluster's name for itself.")
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Run a submitted job, or go on with what an earlier attempt left."""
    from graft.cluster.jobs import begin_attempt, read_job, submit_job
    from graft.cluster.local import ray_session, stop_this_job, wait_for_cpus, wait_for_store
    from graft.errors import GraftError, Interrupted, StoreError
    from graft.spec import parse_job, parse_yaml
    from graft.store import Store

    opened, attempt = Store.open(store), None
    try:
        parsed = parse_job(parse_yaml(spec, f"job {job}"), f"job {job}", None)
        submit_job(opened, job, spec)
        record = read_job(opened, job)
        if record and record.state == "succeeded":
            # Its pod died between its last word and its end.
            print(f"job {job} has succeeded already")
            return
        attempt = begin_attempt(opened, job, parsed.kind, where, cluster)
        print(f"job {job}, attempt {attempt.number}", flush=True)
        with ray_session():
            wait_for_cpus(cpus)
            model = _run(opened, job, parsed, first=attempt.number == 1)
    except Interrupted:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, GraftError) else f"{type(error).__name__}: {error}"
        if attempt and isinstance(error, StoreError):
            wait_for_store(opened)  # which worked before: for the reason, and the log, to get there
        again = _may_do_better(error)
        if attempt:
            with suppress(GraftError):
                attempt.fail(text.partition("\n")[0], final=not again)
        if not again:
            print(f"graft: {text}", flush=True)
            stop_this_job()
        raise
    attempt.succeed(model)


def _may_do_better(error: Exception) -> bool:
    """Whether another cluster may: it has what this one lacks, or reaches the store."""
    from graft.errors import GaveUp, InputError, ResourceError, RunFailed, StoreError

    if isinstance(error, (StoreError, ResourceError, GaveUp)):
        return True
    return not isinstance(error, (InputError, RunFailed))


def _run(store: "Store", job: str, spec: "Job", first: bool) -> str | None:
    """Run what a job's spec says, under the job's name; return the model that it registers.

    `first`: no attempt before this one can have left anything of that name.
    """
    from graft.errors import InputError
    from graft.spec import Demo, Evaluation, Finetune, TransferReport

    if isinstance(spec, Demo):
        return _demo(store)
    if isinstance(spec, Evaluation):
        _evaluation(store, spec)
        return None
    if isinstance(spec, TransferReport):
        _transfer(store, job, spec)
        return None
    what, place = ("run", "runs") if isinstance(spec, Finetune) else ("sweep", "sweeps")
    if first and store.exists(f"{place}/{job}/spec.yaml"):
        raise InputError(f"there is a {what} '{job}' that this job did not make; choose another id")
    return _finetune(store, job, spec) if isinstance(spec, Finetune) else _sweep(store, job, spec)


def _demo(store: "Store") -> str:
    from graft.cli.demo import run_and_show

    return run_and_show(store, json=False).served


def _finetune(store: "Store", run: str, spec: "Finetune") -> str | None:
    from graft.cli.training import run_and_show
    from graft.training.prepare import resolve
    from graft.training.runs import create_run

    if not store.exists(f"runs/{run}/spec.yaml"):
        create_run(store, resolve(store, spec), run)
    return run_and_show(store, run, json=False).model


def _sweep(store: "Store", sweep_id: str, spec: "Sweep") -> str | None:
    from graft.cli.sweeping import run_and_show
    from graft.sweep.plan import TWO_CORES
    from graft.sweep.resolve import prepare_sweep
    from graft.sweep.results import create_sweep

    if not store.exists(f"sweeps/{sweep_id}/spec.yaml"):
        create_sweep(store, *prepare_sweep(store, spec, TWO_CORES), sweep_id)
    return run_and_show(store, sweep_id, json=False).model


def _transfer(store: "Store", report: str, spec: "TransferReport") -> None:
    from graft.cli.output import console, emit
    from graft.cli.transfer import answers_page, run_and_show
    from graft.report.answers import Answers
    from graft.report.transfer import create_transfer

    if not store.exists(f"reports/{report}/spec.yaml"):
        create_transfer(store, spec, report)
    made = run_and_show(store, report)
    emit(made.document(), False, lambda: answers_page(Answers.model_validate(made.found)))
    console.print(f"the page: graft report show {report} --out FOLDER", soft_wrap=True)


def _evaluation(store: "Store", spec: "Evaluation") -> None:
    from graft.cli.evaluation import images_of, scores_page
    from graft.cli.output import console, emit
    from graft.registry import get_model
    from graft.report.scores import Scores
    from graft.report.worker import evaluate_on_ray

    version = get_model(store, spec.model)
    dataset = f"{spec.dataset.name}@{spec.dataset.version}" if spec.dataset else None
    images, split = images_of(store, version, dataset, spec.split)
    report = evaluate_on_ray(store, version, images.manifest, split, spec.scaling)
    emit(report.document(), False, lambda: scores_page(Scores.model_validate(report.found)))
    console.print(f"the page: graft report show {report.report} --out FOLDER", soft_wrap=True)


def ship_logs(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    folder: Annotated[Path, typer.Argument(help="Ray's log folder.")],
    store: StoreUri = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Ship a pod's logs to the store as they come, until SIGTERM."""
    import signal
    import threading

    from graft.cli.output import console
    from graft.cluster.ship import Shipper, ship_until
    from graft.store import Store

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    shipper = Shipper(Store.open(store), job, folder, os.uname().nodename)
    ship_until(shipper, ended, lambda text: console.print(text, markup=False, highlight=False))
