"""`graft submit SPEC`: run a job on a cluster."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.cluster_options import ClusterOptions, PodOptions
from graft.cli.options import Json, Settings, grouped_options

if TYPE_CHECKING:
    from graft.cluster.cluster_jobs import ClusterJobs
    from graft.cluster.job_inputs import JobInputs
    from graft.cluster.job_overview import Jobs
    from graft.cluster.rayjob_manifest import Submission


@grouped_options
def submit(
    spec: Annotated[str, typer.Argument(help="Job spec (YAML), of any kind.")],
    set_: Settings = None,
    id_: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The job's id; default: a new one.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; fails where it does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")
    ] = False,
    *,
    pods: PodOptions,
    cluster: ClusterOptions,
    json: Json = False,
) -> None:
    """Send a job to a cluster.

    To the one that the kubeconfig's namespace gives or, with --address, to a running Ray.

    Example: graft submit jobs/finetune.yaml --set train.epochs=3 --wait
    """
    from graft.cli.show.job_log import follow_to_the_end, show_status
    from graft.cli.show.output import note
    from graft.cluster.job_id import check_id, new_id
    from graft.cluster.job_inputs import JobInputs, local_weights
    from graft.cluster.job_overview import Jobs
    from graft.cluster.rayjob_manifest import Submission
    from graft.spec import load_job

    local = load_job(spec, set_ or [], None)
    job = id_ or new_id(local.name)
    check_id(job)
    files = local_weights(local)  # before the cluster is asked
    target, store = cluster.open_target()
    inputs = JobInputs.of(store, local, files, target.store_is_volume)
    submission = Submission(job, inputs.spec, pods.image, pods.resource_class)
    if dry_run:
        sys.stdout.write(target.show(submission, json))
        return
    jobs = Jobs(target, None if inputs.problem else store)
    if id_ and _was_sent(jobs, submission):
        note(f"{job} was submitted before")
    else:
        _send(target, submission, inputs)
        note(f"{job} was sent")
    status = jobs.accepted(job)
    if wait:
        follow_to_the_end(jobs, job, json)
        return
    note(f"  graft jobs logs {job} -f\n  graft jobs cancel {job}")
    show_status(status, json)


def _was_sent(jobs: "Jobs", submission: "Submission") -> bool:
    """Whether there is such a job already.

    Raises:
        InputError: it has another spec.
    """
    from graft.errors import InputError
    from graft.spec import dump_job

    sent = jobs.spec(submission.job)
    if sent not in (None, dump_job(submission.spec)):
        raise InputError(
            f"there is a job '{submission.job}' with another spec; choose another --id"
        )
    return sent is not None and jobs.began(submission.job)


def _send(target: "ClusterJobs", submission: "Submission", inputs: "JobInputs") -> None:
    """Send a job that can run, after the files that it needs."""
    from graft.cli.show.output import note
    from graft.cluster.cluster_jobs import tidied
    from graft.cluster.job_inputs import check_names, put_weights
    from graft.errors import ClusterLost

    if inputs.problem:
        note(f"the dataset is left to the job; no use of the store here: {inputs.problem}")
    else:
        check_names(inputs.store, inputs.spec)
    for text in target.check(submission):
        note(text)
    put_weights(inputs.store, inputs.files)
    _record(target, submission, inputs)
    try:
        target.submit(submission)
    except ClusterLost as error:
        raise ClusterLost(
            f"{error}; it may have got there all the same: graft jobs show {submission.job}"
        ) from error
    for text in tidied(target):
        note(text)


def _record(target: "ClusterJobs", submission: "Submission", inputs: "JobInputs") -> None:
    """Record in the store what is sent, and where to, as far as the store can be used from here."""
    from graft.cli.show.output import note
    from graft.cluster.job_records import submit_job
    from graft.cluster.rayjob_manifest import travels_through_store
    from graft.cluster.sent_jobs import note_sent
    from graft.errors import InputError, StoreError
    from graft.spec import dump_job
    from graft.units import size

    text = dump_job(submission.spec)
    needs_store = travels_through_store(text)
    if inputs.problem:
        if needs_store:
            raise InputError(
                f"this spec has {size(len(text))} and has to travel through the store, which "
                f"cannot be used from here: {inputs.problem}"
            )
        return
    try:
        note_sent(inputs.store, target, submission)
        submit_job(inputs.store, submission.job, text)
    except StoreError as error:
        if needs_store:
            raise
        note(f"the store knows of it once it begins: {error}")
