"""`graft jobs ls|show|logs|wait|cancel`: the jobs that were submitted."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.cluster_options import ClusterOptions
from graft.cli.help import noun
from graft.cli.options import Json, grouped_options

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

app = noun("List, show, follow and cancel submitted jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@app.command()
@grouped_options
def ls(cluster: ClusterOptions, json: Json = False) -> None:
    """List jobs and how they stand.

    Example: graft jobs ls --namespace vision
    """
    from graft.cli.show.output import emit

    statuses = cluster.open_jobs().all()

    def table() -> "Table":
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("job", no_wrap=True), "kind", "state", Column("", overflow="fold"))
        for status in statuses:
            progress = status.progress if status.state == "running" else status.why
            more = escape(status.model or progress or "")
            table.add_row(status.job, status.kind, status.state, more)
        return table

    emit({"jobs": [status.document() for status in statuses]}, json, table)


@app.command()
@grouped_options
def show(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Show how a job stands, and the spec that was sent.

    Example: graft jobs show ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit

    jobs = cluster.open_jobs()
    status, spec = jobs.status(job), jobs.spec(job)
    sources = jobs.sources(job)

    def page() -> "Group":
        from rich.console import Group

        from graft.cli.show.tables import facts, spec_text

        values = {
            key: str(value)
            for key, value in status.document().items()
            if value not in (None, "", 0) and key != "job"
        }
        table = facts(job, values)
        for source in sources:
            table.add_row("log", source)
        return Group(spec_text(spec or ""), table)

    emit(status.document() | {"spec": spec, "logs": sources}, json, page)


@app.command()
@grouped_options
def logs(
    job: JobId,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of those that `show` lists; default: the drivers."),
    ] = None,
    *,
    cluster: ClusterOptions,
) -> None:
    """Print a job's log, also when its cluster is gone.

    Example: graft jobs logs ants-bees-20260101-120000-1a2b --follow
    """
    from graft.cli.show.job_log import Output, follow_log
    from graft.cluster.log_following import Log
    from graft.errors import NotFoundError
    from graft.spec import nearest

    jobs = cluster.open_jobs()
    status = jobs.status(job)
    if source is not None and source not in (sources := jobs.sources(job)):
        hint = nearest(source, sources)
        raise NotFoundError(f"{job} has no log '{source}'{hint}; graft jobs show {job} lists them")
    log = Log(jobs, job, source)
    if following and not status.has_ended:
        follow_log(jobs, job, log)
        return
    output = Output()
    for item in log.new(last=True):
        output.show(*item)


@app.command()
@grouped_options
def wait(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Wait until a job has ended; the exit code says whether it succeeded.

    Example: graft jobs wait ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.job_log import follow_to_the_end

    follow_to_the_end(cluster.open_jobs(), job, json, logs=False)


@app.command()
@grouped_options
def cancel(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Stop a job and free its pods; what it has committed stays.

    Example: graft jobs cancel ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit

    cluster.open_jobs().cancel(job)
    emit({"job": job, "state": "cancelled"}, json, lambda: f"{job} cancelled")
