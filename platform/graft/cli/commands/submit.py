"""`graft submit SPEC`: run a job on a cluster."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.cluster_options import ClusterOptions, cluster_options
from graft.cli.options import Debug, Json, Settings

if TYPE_CHECKING:
    from graft.cluster.backend import ClusterJobs
    from graft.cluster.rayjob_manifest import Submission


@cluster_options
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
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Resource class of the workers' pods."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="One that the profile allows.")
    ] = None,
    *,
    cluster: ClusterOptions,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a job to a cluster.

    To the one that the kubeconfig's namespace gives or, with --address, to a running Ray.

    Example: graft submit jobs/finetune.yaml --set train.epochs=3 --wait
    """
    from graft.cli.show.job_log import follow_to_the_end, show_status
    from graft.cli.show.output import note
    from graft.cluster.job_id import check_id, new_id
    from graft.cluster.job_inputs import check_names, local_weights, store_problem, stored_weights
    from graft.cluster.job_overview import Jobs
    from graft.cluster.rayjob_manifest import Submission
    from graft.errors import InputError
    from graft.spec import dump_job, load_job

    local = load_job(spec, set_ or [], None)
    name = id_ or new_id(local.name)
    check_id(name)
    weights = local_weights(local)
    target, store = cluster.open_target()
    unreachable = store_problem(store, target.store_is_volume)
    jobs = Jobs(target, None if unreachable else store)
    if unreachable and weights:
        raise InputError(
            f"{weights[0]} has to be copied into the store, which cannot be used from here: "
            f"{unreachable}"
        )
    job = stored_weights(store, local, send=False) if weights else local
    submission = Submission(name, job, image, class_)
    if dry_run:
        sys.stdout.write(target.show(submission, json))
        return
    before = jobs.spec(name) if id_ else None
    if before not in (None, dump_job(job)):
        raise InputError(f"there is a job '{name}' with another spec; choose another --id")
    if before:
        note(f"{name} was submitted before")
    else:
        if unreachable:
            note(f"the dataset is left to the job; no use of the store here: {unreachable}")
        else:
            check_names(store, local)
        for text in target.check(submission):
            note(text)
        if weights:
            stored_weights(store, local)
        _send(target, submission)
        note(f"{name} was sent")
    status = jobs.accepted(name)
    if wait:
        follow_to_the_end(jobs, name, json)
        return
    note(f"  graft jobs logs {name} -f\n  graft jobs cancel {name}")
    show_status(status, json)


def _send(target: "ClusterJobs", submission: "Submission") -> None:
    from graft.errors import ClusterLost

    try:
        target.submit(submission)
    except ClusterLost as error:
        raise ClusterLost(
            f"{error}; it may have got there all the same: graft jobs show {submission.job}"
        ) from error
