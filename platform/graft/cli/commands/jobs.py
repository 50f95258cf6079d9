"""`graft jobs ls|show|logs|wait|cancel|resume|rm|prune`: the jobs that were submitted."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.cluster_options import ClusterOptions, PodOptions
from graft.cli.help import noun
from graft.cli.options import Json, changes_of, grouped_options

if TYPE_CHECKING:
    from rich.console import Group

    from graft.cluster.job_overview import Jobs
    from graft.cluster.log_following import Log
    from graft.cluster.status import JobStatus

app = noun("List, show, follow, cancel and resume submitted jobs.")

LOOKED_THROUGH = 500
"""Jobs of which a list picks those that it is asked for."""

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@dataclass(frozen=True)
class Selection:
    """Which jobs a list has."""

    mine: Annotated[bool, typer.Option("--mine", help="Only those that you submitted.")] = False
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only those that stand so: running, failed.")
    ] = None
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="So many, the latest.")] = 30
    every: Annotated[bool, typer.Option("--all", help="All that there are.")] = False

    def of(self, jobs: "Jobs") -> "list[JobStatus]":
        """Return how the selected jobs stand, the latest first.

        Raises:
            InputError: no job stands so.
        """
        from typing import get_args

        from graft.cli.show.output import note
        from graft.cluster.status import JobState, JobStatus
        from graft.errors import InputError
        from graft.spec import nearest

        states = get_args(JobState)
        if self.state not in (None, *states):
            hint = nearest(self.state or "", states)
            raise InputError(f"no state '{self.state}'{hint}; there are: {', '.join(states)}")
        user = jobs.user() if self.mine else None
        newest, found = jobs.newest(), list[JobStatus]()
        for looked_through, status in enumerate(newest):
            if not self.every and (len(found) == self.limit or looked_through == LOOKED_THROUGH):
                if looked_through == LOOKED_THROUGH:
                    note(f"the latest {LOOKED_THROUGH} jobs were looked through; --all takes all")
                break
            if (not self.mine or status.owner == user) and self.state in (None, status.state):
                found.append(status)
        if jobs.silence:
            note(f"from the store alone, which may be behind: {jobs.silence}")
        return found


@app.command()
@grouped_options
def ls(
    by: Annotated[
        str | None,
        typer.Option(metavar="owner", help="Sum GPU hours of the jobs instead, by their owner."),
    ] = None,
    *,
    selection: Selection,
    cluster: ClusterOptions,
    json: Json = False,
) -> None:
    """List jobs and how they stand, the latest first.

    Example: graft jobs ls --mine --state running
    """
    from graft.cli.show.jobs import jobs_table, owners_table, sums_by_owner
    from graft.cli.show.output import emit
    from graft.errors import InputError

    if by not in (None, "owner"):
        raise InputError(f"--by {by}: jobs are summed by owner only")
    # A sum of the latest alone would be taken for the whole.
    selected = replace(selection, every=True) if by else selection
    statuses = selected.of(cluster.open_jobs())
    if by:
        sums = sums_by_owner(statuses)
        emit({"owners": sums}, json, lambda: owners_table(sums))
        return
    document = {"jobs": [status.document() for status in statuses]}
    emit(document, json, lambda: jobs_table(statuses))


@app.command()
@grouped_options
def show(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Show how a job stands, and the spec that was sent.

    Example: graft jobs show ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit

    jobs = cluster.open_jobs()
    status, spec = jobs.status(job), jobs.spec(job)
    sources, sent = jobs.sources(job), jobs.sent(job)

    def page() -> "Group":
        from rich.console import Group

        from graft.cli.show.tables import facts, spec_text

        values = {
            key: str(value)
            for key, value in status.document().items()
            if value not in (None, "", 0) and key != "job"
        }
        values |= {key: str(value) for key, value in sent.items() if value}
        table = facts(job, values)
        for source in sources:
            table.add_row("log", source)
        return Group(spec_text(spec or ""), table)

    emit(status.document() | {"spec": spec, "sent": sent, "logs": sources}, json, page)


@dataclass(frozen=True)
class LogOptions:
    """Which part of a job's log is shown, and how."""

    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of those that `show` lists; default: the drivers."),
    ] = None
    tail: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The last lines only, so many.")
    ] = None
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="What is not older: 90s, 10m, 2h or 30d.")
    ] = None
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Begin lines with when they were shipped, in UTC.")
    ] = False

    def log(self, jobs: "Jobs", job: str) -> "Log":
        """Return that part of the log.

        Raises:
            NotFoundError: the job has no such source.
            InputError: `since` is no time.
        """
        from datetime import UTC, datetime, timedelta

        from graft.cluster.log_following import Log
        from graft.errors import NotFoundError
        from graft.spec import nearest

        if self.source is not None and self.source not in (sources := jobs.sources(job)):
            hint = nearest(self.source, sources)
            raise NotFoundError(
                f"{job} has no log '{self.source}'{hint}; graft jobs show {job} lists them"
            )
        since = None
        if self.since is not None:
            since = datetime.now(UTC) - timedelta(seconds=seconds("--since", self.since))
        return Log(jobs, job, self.source, since, self.tail)


@app.command()
@grouped_options
def logs(
    job: JobId,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    *,
    options: LogOptions,
    cluster: ClusterOptions,
) -> None:
    """Print a job's log, also when its cluster is gone.

    Example: graft jobs logs ants-bees-20260101-120000-1a2b --tail 100 --follow
    """
    from graft.cli.show.job_log import Output, follow_log

    jobs = cluster.open_jobs()
    status = jobs.status(job)
    follows = following and not status.has_ended
    log, output = options.log(jobs, job), Output(False, options.timestamps, options.tail)
    for chunk in log.new(last=not follows):
        output.show(chunk)
    output.release()
    if follows:
        follow_log(jobs, job, log, output)


@app.command()
@grouped_options
def wait(
    job: JobId,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Give up after 90s, 10m, 2h or 30d, with exit code 75."),
    ] = None,
    *,
    cluster: ClusterOptions,
    json: Json = False,
) -> None:
    """Wait until a job has ended; the exit code says whether it succeeded.

    Example: graft jobs wait ants-bees-20260101-120000-1a2b --timeout 2h
    """
    from graft.cli.show.job_log import follow_to_the_end

    limit_s = None if timeout is None else seconds("--timeout", timeout)
    follow_to_the_end(cluster.open_jobs(), job, json, logs=False, timeout_s=limit_s)


@app.command()
@grouped_options
def cancel(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Stop a job and free its pods; what it has committed stays.

    Example: graft jobs cancel ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit

    cluster.open_jobs().cancel(job)
    emit({"job": job, "state": "cancelled"}, json, lambda: f"{job} cancelled")


@app.command()
@grouped_options
def resume(
    job: JobId,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Such as jobs.retries=5 or train.epochs=12.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; fails where it does.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Though it was sent to another cluster: what runs there publishes nothing more.",
        ),
    ] = False,
    *,
    pods: PodOptions,
    cluster: ClusterOptions,
    json: Json = False,
) -> None:
    """Have a job go on that has ended, from its last checkpoint.

    One whose retries or time were used up, that was cancelled, or whose RayJob was deleted. It is
    sent again under its id; its attempts are counted anew. With another class or other workers the
    weights are not those of an unbroken run, and the result says so.

    Example: graft jobs resume ants-bees-20260101-120000-1a2b --set jobs.retries=5
    """
    from graft.cli.show.job_log import follow_to_the_end, show_status
    from graft.cli.show.output import note
    from graft.cluster.rayjob_manifest import Submission
    from graft.errors import InputError
    from graft.spec import parse_job, parse_yaml

    jobs = cluster.open_jobs()
    status, text = jobs.status(job), jobs.spec(job)
    if text is None:
        raise InputError(f"the spec of {job} ({status}) is not known any more; submit it again")
    spec = parse_job(parse_yaml(text, f"job {job}"), f"job {job}", None)
    changes = changes_of(set_ or [])
    settings = {key: value for key, value in changes.items() if key.startswith("jobs.")}
    submission = Submission(job, spec, pods.image, pods.resource_class, settings=settings)
    others = {key: changes[key] for key in changes.keys() - settings.keys()}
    for text in jobs.resume(submission, others, take_over):
        note(text)
    note(f"{job} was sent again")
    status = jobs.accepted(job)
    if wait:
        follow_to_the_end(jobs, job, json)
        return
    note(f"  graft jobs logs {job} -f\n  graft jobs cancel {job}")
    show_status(status, json)


@app.command()
@grouped_options
def rm(job: JobId, cluster: ClusterOptions, json: Json = False) -> None:
    """Remove from the cluster what it has of a job that has ended; what the store has stays.

    Example: graft jobs rm ants-bees-20260101-120000-1a2b
    """
    from graft.cli.show.output import emit

    cluster.open_jobs().remove(job)
    emit({"job": job, "removed": True}, json, lambda: f"{job} removed from the cluster")


@app.command()
@grouped_options
def prune(
    older: Annotated[
        str, typer.Option(metavar="TIME", help="Those that ended so long ago: 90s, 10m, 2h, 30d.")
    ],
    cluster: ClusterOptions,
    json: Json = False,
) -> None:
    """Remove from the cluster all jobs that ended some time ago; what the store has stays.

    Example: graft jobs prune --older 30d
    """
    from graft.cli.show.output import emit

    pruned = cluster.open_jobs().prune(seconds("--older", older))
    emit({"jobs": pruned}, json, lambda: "\n".join(pruned) or "no job ended so long ago")


def seconds(option: str, text: str) -> float:
    """Return the seconds that an option says.

    Raises:
        InputError: it is no time.
    """
    from graft.errors import InputError
    from graft.units import seconds_of

    try:
        return seconds_of(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error
