"""`graft pod-ends`: what Kubernetes calls in each pod of a job before it ends that pod."""

from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, StoreUri


def pod_ends(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    store: StoreUri = DEFAULT_STORE,
) -> None:
    """Record that a head was told to end: what stops in it counts as no failure of its job.

    Where the job has ended, or was cancelled, Ray stops at once, for others want its GPUs.
    """
    import socket
    import subprocess

    from graft.cluster.job_attempts import tell_end
    from graft.cluster.job_records import read_job
    from graft.store import Store

    opened, pod = Store.open(store), socket.gethostname()
    record = read_job(opened, job)
    if record and record.state == "running" and record.pod == pod:
        tell_end(opened, job, record.attempt)
    elif record and record.final:
        subprocess.run(["ray", "stop", "--force"], check=False)  # noqa: S607
