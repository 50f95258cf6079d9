"""`graft run-job`: what runs on the head of a submitted job's cluster."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, StoreUri, grouped_options, open_store

if TYPE_CHECKING:
    from graft.cluster.job_records import Driver
    from graft.registry import Mover
    from graft.spec import Evaluation, Finetune, Import, Job, Prediction, Sweep, TransferReport
    from graft.store import Store


@dataclass(frozen=True)
class DriverOptions:
    """What the manifest of a job tells its driver."""

    cpus: Annotated[
        int, typer.Option(envvar="GRAFT_CPUS", help="CPUs of its cluster to wait for.")
    ] = 0
    gpus: Annotated[int, typer.Option(envvar="GRAFT_GPUS", help="GPUs of its cluster.")] = 0
    where: Annotated[
        str | None, typer.Option(envvar="GRAFT_WHERE", help="The cluster that it was sent to.")
    ] = None
    cluster: Annotated[
        str | None, typer.Option(envvar="GRAFT_CLUSTER", help="That cluster's name for itself.")
    ] = None
    owner: Annotated[str | None, typer.Option(envvar="GRAFT_OWNER", help="Who submitted it.")] = (
        None
    )
    self_declared: Annotated[
        bool,
        typer.Option(envvar="GRAFT_OWNER_SELF_DECLARED", help="Whether that is their own word."),
    ] = True
    retries: Annotated[
        int | None,
        typer.Option(envvar="GRAFT_RETRIES", help="Attempts that may fail or die; default: any."),
    ] = None

    start_deadline: Annotated[
        float,
        typer.Option(envvar="GRAFT_START_DEADLINE", help="Seconds to wait for CPUs and GPUs."),
    ] = 900.0
    resource_class: Annotated[
        str | None, typer.Option(envvar="GRAFT_CLASS", help="Resource class of its workers.")
    ] = None
    image: Annotated[
        str | None, typer.Option(envvar="GRAFT_IMAGE", help="The image that was asked for.")
    ] = None

    def driver(self) -> "Driver":
        """Return where this process drives the job, and whose it is."""
        import socket

        from graft.cluster.job_records import ClusterIdentity, Driver, Owner

        owner = Owner(self.owner, self.self_declared) if self.owner else None
        identity = ClusterIdentity(self.where, self.cluster)
        pod = socket.gethostname()
        return Driver(identity, pod, owner, self.gpus, self.resource_class, self.image)


@grouped_options
def run_job(
    job: Annotated[str, typer.Argument(envvar="GRAFT_JOB", help="The job's id.")],
    spec: Annotated[
        str | None,
        typer.Argument(
            envvar="GRAFT_SPEC", help="Its spec, the text itself; default: the store's."
        ),
    ] = None,
    *,
    options: DriverOptions,
    store: StoreUri = DEFAULT_STORE,
) -> None:
    """Run a submitted job, or go on with what an earlier attempt left."""
    from graft.cluster.job_attempts import begin_attempt, may_succeed_elsewhere
    from graft.cluster.job_records import read_job, read_job_spec, submit_job
    from graft.cluster.local_ray import ray_session, stop_this_job, wait_for_store, wait_for_workers
    from graft.cluster.sent_jobs import read_sent
    from graft.errors import GraftError, Interrupted, StoreError
    from graft.spec import parse_job, parse_yaml

    opened, attempt = open_store(store), None
    try:
        spec = spec or read_job_spec(opened, job)
        parsed = parse_job(parse_yaml(spec, f"job {job}"), f"job {job}", None)
        submit_job(opened, job, spec)
        record = read_job(opened, job)
        if record and record.state == "succeeded":
            # An earlier pod died between recording that and its end.
            print(f"job {job} has succeeded already")
            return
        driver = options.driver()
        sent = read_sent(opened, job)
        attempt = begin_attempt(
            opened, job, parsed.kind, driver, options.retries, sent.when if sent else None
        )
        print(f"job {job}, attempt {attempt.number}", flush=True)
        with ray_session():
            wait_for_workers(options.cpus, options.gpus, options.start_deadline)
            mover = mover_of(f"graft submit, job {job}", driver.owner)
            model = _run(opened, job, parsed, mover, attempt.number)
    except Interrupted:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, GraftError) else f"{type(error).__name__}: {error}"
        if attempt and isinstance(error, StoreError):
            # It worked before; the reason, and the log, have to get there.
            wait_for_store(opened)
        again = may_succeed_elsewhere(error)
        if attempt:
            with suppress(GraftError):
                attempt.fail(text.partition("\n")[0], final=not again)
        if not again:
            print(f"graft: {text}", flush=True)
            stop_this_job()
        raise
    attempt.succeed(model)


def _run(store: "Store", job: str, spec: "Job", mover: "Mover", attempt: int) -> str | None:
    """Run what a job's spec says, under the job's name; return the model that it registers.

    `attempt`: of the job. At the first one nothing of that name can be its own yet.

    Raises:
        InputError: a run or a sweep of that name exists, and this job did not make it.
    """
    from graft.errors import InputError
    from graft.spec import Demo, Evaluation, Finetune, Import, Prediction, TransferReport

    if isinstance(spec, Demo):
        return _demo(store, mover)
    if isinstance(spec, Evaluation):
        _evaluation(store, spec)
        return None
    if isinstance(spec, TransferReport):
        _transfer(store, job, spec)
        return None
    if isinstance(spec, Prediction):
        _prediction(store, job, spec)
        return None
    if isinstance(spec, Import):
        _import(store, job, spec)
        return None
    sort, place = ("run", "runs") if isinstance(spec, Finetune) else ("sweep", "sweeps")
    foreign = f"jobs/{job}/foreign"
    if store.exists(f"{place}/{job}/spec.yaml") and (attempt == 1 or store.exists(foreign)):
        store.write(foreign, b"")  # resuming the job makes it no more this job's
        raise InputError(f"there is a {sort} '{job}' that this job did not make; choose another id")
    if isinstance(spec, Finetune):
        return _finetune(store, job, spec, mover, attempt)
    return _sweep(store, job, spec, mover)


def _demo(store: "Store", mover: "Mover") -> str:
    from graft.cli.commands.demo import run_demo_and_show

    return run_demo_and_show(store, json=False, mover=mover).served


def _finetune(
    store: "Store", run: str, spec: "Finetune", mover: "Mover", attempt: int
) -> str | None:
    from functools import partial

    from graft.cli.commands.train import finish_run
    from graft.cluster.job_attempts import was_told_to_end
    from graft.training.prepare_run import resolve
    from graft.training.run_records import create_run

    if not store.exists(f"runs/{run}/spec.yaml"):
        create_run(store, resolve(store, spec), run)
    told = partial(was_told_to_end, store, run, attempt)
    return finish_run(store, run, json=False, mover=mover, told_to_end=told).model


def _sweep(store: "Store", sweep_id: str, spec: "Sweep", mover: "Mover") -> str | None:
    from graft.cli.commands.sweep import run_sweep_and_show
    from graft.sweep.prepare_sweep import prepare_sweep
    from graft.sweep.sweep_plan import TWO_CORES
    from graft.sweep.sweep_records import create_sweep

    if not store.exists(f"sweeps/{sweep_id}/spec.yaml"):
        create_sweep(store, *prepare_sweep(store, spec, TWO_CORES), sweep_id)
    # An earlier attempt at the job, if it still lives, was overtaken when this one began.
    return run_sweep_and_show(store, sweep_id, json=False, mover=mover, take_over=True).model


def _transfer(store: "Store", report: str, spec: "TransferReport") -> None:
    from graft.cli.commands.reports import finish_transfer
    from graft.report.transfer.run_transfer import create_transfer

    if not store.exists(f"reports/{report}/spec.yaml"):
        create_transfer(store, spec, report)
    finish_transfer(store, report, out=None, json=False, take_over=True)
    _note_page(report)


def _prediction(store: "Store", prediction: str, spec: "Prediction") -> None:
    from graft.cli.commands.predict_batch import begin_prediction, finish_prediction
    from graft.prediction.records import is_begun

    if not is_begun(store, prediction):
        begin_prediction(store, spec, prediction)
    # An earlier attempt at the job, if it still lives, was overtaken when this one began.
    finish_prediction(store, prediction, json=False, take_over=True)


def _import(store: "Store", import_id: str, spec: "Import") -> None:
    from graft.cli.dataset_refs import open_dataset_ref
    from graft.cli.show.dataset import show_import
    from graft.cli.show.output import counting, note
    from graft.cli.show.pace import showing_pace
    from graft.cluster.local_ray import silent_core
    from graft.import_job.ray_data import RayWorkers
    from graft.import_job.records import ImportPace, find_begun, read_finished
    from graft.import_job.run_import import create_import, run_import

    if not find_begun(store, import_id) and not read_finished(store, import_id):
        with counting("listing", "files") as listed:
            create_import(store, spec, import_id, lambda files: listed(files, files))

    def step(pace: ImportPace) -> str:
        return pace.step

    with silent_core(), showing_pace(step) as progress:
        # An earlier attempt at the job, if it still lives, was overtaken when this one began.
        finished = run_import(store, import_id, RayWorkers(store), progress, note, take_over=True)
    dataset, written = open_dataset_ref(store, finished.dataset), finished.written
    show_import(dataset, written, finished.other_shards, json=False, seconds=finished.seconds)


def _evaluation(store: "Store", spec: "Evaluation") -> None:
    from graft.cli.commands.evaluate import held_by_decision
    from graft.cli.dataset_refs import evaluation_images
    from graft.cli.show.report import show_report
    from graft.registry import get_model
    from graft.report.evaluation.ray_task import evaluate_on_ray

    version = get_model(store, spec.model)
    dataset = f"{spec.dataset.name}@{spec.dataset.version}" if spec.dataset else None
    images, split = evaluation_images(store, version, dataset, spec.split)
    report = evaluate_on_ray(store, version, images.manifest, split, spec.scaling)
    held = held_by_decision(store, version, report)
    show_report(store, report, out=None, json=False, held=held)
    _note_page(report.report)


def _note_page(report: str) -> None:
    from graft.cli.show.output import note

    note(f"the page: graft reports show {report} --out FOLDER")
