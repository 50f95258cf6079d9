"""`graft submit SPEC`: run a job on a cluster."""

import sys
from typing import Annotated

import typer

from graft.cli.options import Debug, Json
from graft.cli.target import Address, Context, Namespace, OwnStore, ProfileName


def submit(
    spec: Annotated[str, typer.Argument(help="Job spec (YAML), of any kind.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: train.epochs=3."),
    ] = None,
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
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a job to the cluster that the kubeconfig's namespace gives, or to a running Ray."""
    from graft.cli.following import follow_to_the_end, show_status
    from graft.cli.target import note, open_target
    from graft.cluster.rayjob import Submission, check_id
    from graft.cluster.submit import check_names, local_weights, reachable, stored_weights
    from graft.cluster.target import new_id
    from graft.cluster.watch import Jobs
    from graft.errors import ClusterLost, InputError
    from graft.spec import dump_job, load_job

    given = load_job(spec, set_ or [], None)
    name = id_ or new_id(given.name)
    check_id(name)
    weights = local_weights(given)
    target, opened = open_target(context, namespace, profile, address, store)
    unreachable = reachable(opened)
    jobs = Jobs(target, None if unreachable else opened)
    if unreachable and weights:
        raise InputError(
            f"{weights[0]} has to be copied into the store, which cannot be used from here: "
            f"{unreachable}"
        )
    job = stored_weights(opened, given, send=False) if weights else given
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
            check_names(opened, given)
        for text in target.check(submission):
            note(text)
        if weights:
            stored_weights(opened, given)
        try:
            target.submit(submission)
        except ClusterLost as error:
            raise ClusterLost(
                f"{error}; it may have got there all the same: graft jobs show {name}"
            ) from error
        note(f"{name} was sent")
    status = jobs.accepted(name)
    if wait:
        follow_to_the_end(jobs, name, json)
        return
    note(f"  graft jobs logs {name} -f\n  graft jobs cancel {name}")
    show_status(status, json)
