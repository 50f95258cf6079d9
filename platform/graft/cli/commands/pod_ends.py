"""`graft pod-ends`: what Kubernetes calls in a submitted job's head before it ends that pod."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, StoreUri


def pod_ends(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    store: StoreUri = DEFAULT_STORE,
) -> None:
    """Record that this pod was told to end: what stops in it counts as no failure of its job."""
    import socket

    from graft.cluster.job_attempts import tell_end
    from graft.cluster.job_records import read_job
    from graft.store import Store

    opened, pod = Store.open(store), socket.gethostname()
    record = read_job(opened, job)
    if record and record.state == "running" and record.pod == pod:
        tell_end(opened, job, record.attempt)
