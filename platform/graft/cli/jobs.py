"""`graft jobs`: look at submitted jobs, follow, cancel."""

from typing import Annotated

import typer

from graft.cli.options import Debug, Json
from graft.cli.target import Address, Context, Namespace, OwnStore, ProfileName

app = typer.Typer(no_args_is_help=True, help="List, show, follow and cancel submitted jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@app.command()
def ls(
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List jobs and how they stand."""
    from rich.markup import escape
    from rich.table import Column, Table

    from graft.cli.output import emit
    from graft.cli.target import open_jobs

    found = open_jobs(context, namespace, profile, address, store).all()

    def table() -> Table:
        table = Table(Column("job", no_wrap=True), "kind", "state", Column("", overflow="fold"))
        for one in found:
            more = one.model or (one.progress if one.state == "running" else one.why)
            table.add_row(one.job, one.kind, one.state, escape(more or ""))
        return table

    emit({"jobs": [one.document() for one in found]}, json, table)


@app.command()
def show(
    job: JobId,
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a job stands, and the spec that was sent."""
    from rich.console import Group
    from rich.markup import escape
    from rich.syntax import Syntax
    from rich.table import Column, Table

    from graft.cli.output import emit
    from graft.cli.target import open_jobs

    jobs = open_jobs(context, namespace, profile, address, store)
    status, spec = jobs.status(job), jobs.spec(job)
    sources = jobs.sources(job)

    def page() -> Group:
        wide = Column(overflow="fold")  # names are there to be copied
        table = Table("", wide, show_header=False, title=job, title_justify="left")
        for key, value in status.document().items():
            if value not in (None, "", 0) and key != "job":
                table.add_row(key, escape(str(value)))
        for source in sources:
            table.add_row("log", source)
        return Group(Syntax(spec or "", "yaml", background_color="default"), table)

    emit(status.document() | {"spec": spec, "logs": sources}, json, page)


@app.command()
def logs(
    job: JobId,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of those that `show` lists; default: the drivers."),
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    debug: Debug = False,
) -> None:
    """Print what a job has said, also when its cluster is gone."""
    from graft.cli.following import Output, follow_log
    from graft.cli.target import open_jobs
    from graft.cluster.watch import Log
    from graft.errors import NotFoundError
    from graft.spec import nearest

    jobs = open_jobs(context, namespace, profile, address, store)
    status = jobs.status(job)
    if source is not None and source not in (known := jobs.sources(job)):
        raise NotFoundError(
            f"{job} has no log '{source}'{nearest(source, known)}; graft jobs show {job} lists them"
        )
    log = Log(jobs, job, source)
    if following and not status.has_ended:
        follow_log(jobs, job, log)
        return
    output = Output()
    for item in log.new(last=True):
        output.show(*item)


@app.command()
def wait(
    job: JobId,
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Wait until a job has ended; the exit code says whether it succeeded."""
    from graft.cli.following import follow_to_the_end
    from graft.cli.target import open_jobs

    jobs = open_jobs(context, namespace, profile, address, store)
    follow_to_the_end(jobs, job, json, logs=False)


@app.command()
def cancel(
    job: JobId,
    context: Context = None,
    namespace: Namespace = None,
    profile: ProfileName = None,
    address: Address = None,
    store: OwnStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop a job and free its pods; what it has committed stays."""
    from graft.cli.output import emit
    from graft.cli.target import open_jobs

    open_jobs(context, namespace, profile, address, store).cancel(job)
    emit({"job": job, "state": "cancelled"}, json, lambda: f"{job} cancelled")
