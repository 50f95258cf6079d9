"""A job from here: how it stands and what it says, from its cluster, the store, or both."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from graft.cluster.jobs import (
    JobRecord,
    cancel_job,
    list_jobs,
    log_sources,
    read_job,
    read_job_spec,
    read_log,
    submit_job,
)
from graft.cluster.ship import DRIVER_SOURCE
from graft.cluster.status import ENDED, UNTAKEN, JobStatus, Seen, combine
from graft.cluster.target import Target
from graft.errors import ClusterLost, InputError, NotFoundError, ResourceError, StoreError
from graft.spec import nearest
from graft.store import Store
from graft.training.runs import claim_attempt, latest_epoch, read_spec

EVERY_S = 2.0
"""Between two looks at a job."""
LOST_S = 60.0
"""For a cluster to answer again."""
ACCEPT_S = 20.0
"""For an operator to take up what was sent."""


class Jobs:
    """The jobs of a cluster and of a store, of which either may be out of reach."""

    def __init__(self, target: Target | None, store: Store | None):
        self.target, self.store = target, store

    def ids(self) -> list[str]:
        """Return the ids of all jobs, of the store and of the cluster."""
        stored = set(list_jobs(self.store)) if self.store else set()
        return sorted(stored | {one.job for one in self.target.all()} if self.target else stored)

    def all(self) -> list[JobStatus]:
        """Return how all jobs stand."""
        stored = list_jobs(self.store) if self.store else []
        try:
            seen = {one.job: one for one in self.target.all()} if self.target else {}
        except ClusterLost:
            if not stored:
                raise
            seen = {}
        return [
            status
            for job in sorted({*seen, *stored})
            if (status := self._status(job, seen.get(job)))
        ]

    def status(self, job: str) -> JobStatus:
        """Return how a job stands.

        Raises:
            NotFoundError: neither the cluster nor the store has it.
            ClusterLost: the cluster does not answer.
        """
        try:
            seen = self.target.find(job) if self.target else None
        except ClusterLost:
            record = self._record(job)
            if record is None or not record.final:
                raise
            return combine(job, None, record, None, here=False)  # the cluster has nothing to add
        status = self._status(job, seen)
        if status is None:
            places = [
                self.target.where if self.target else "",
                self.store.uri if self.store else "",
            ]
            where = " and ".join(place for place in places if place)
            raise NotFoundError(f"no job '{job}' in {where}{nearest(job, self.ids())}")
        return status

    def spec(self, job: str) -> str | None:
        """Return the text of the spec that was sent, None where it is not known yet."""
        if known := self.recorded(job):
            return known
        seen = self.target.find(job) if self.target else None
        return seen.spec if seen else None

    def recorded(self, job: str) -> str | None:
        """Return the text of the spec that the store has of a job, None for none."""
        try:
            return read_job_spec(self.store, job) if self.store else None
        except NotFoundError:
            return None

    def accepted(self, job: str) -> JobStatus:
        """Return how a job stands that was just sent, once its cluster has taken it up."""
        deadline = time.monotonic() + ACCEPT_S
        while True:
            status = self.status(job)
            if status.why != UNTAKEN:
                return status
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"{job} was sent, but nothing has taken it up within {ACCEPT_S:.0f} s: is the "
                    f"KubeRay operator running? graft jobs show {job} says when it was"
                )
            time.sleep(0.5)

    def cancel(self, job: str) -> None:
        """Stop a job: no other attempt begins, and what it holds is freed.

        A finetune that goes on for a moment publishes nothing any more.

        Raises:
            NotFoundError: there is no such job.
            InputError: it has ended already, or runs on another cluster.
        """
        if self.target is None:
            raise InputError(f"to cancel {job} takes the cluster that it runs on")
        status, seen = self.status(job), self.target.find(job)
        record = self._record(job)
        if seen is None and record and record.where and not _runs_on(record, self.target):
            raise InputError(f"{job} runs in {record.where}, not in {self.target.where}")
        if status.has_ended and (seen is None or seen.state in ENDED):
            raise InputError(f"{job} has ended already: {status}")
        if self.store:
            if seen and seen.spec:
                submit_job(self.store, job, seen.spec)
            record = cancel_job(self.store, job, status.kind)
            if record.state != "cancelled":
                raise InputError(f"{job} has ended already: {record.state}")
            if status.kind == "finetune" and self.store.exists(f"runs/{job}/spec.yaml"):
                claim_attempt(self.store, job)  # the one that runs is overtaken
        self.target.cancel(job)

    def sources(self, job: str) -> list[str]:
        """Return the names of what has written logs: the driver of each attempt, then others."""
        found = log_sources(self.store, job) if self.store else []
        return sorted(found, key=lambda source: (not source.startswith(DRIVER_SOURCE), source))

    def _record(self, job: str) -> JobRecord | None:
        try:
            return read_job(self.store, job) if self.store else None
        except NotFoundError:
            return None

    def _status(self, job: str, seen: Seen | None) -> JobStatus | None:
        record = self._record(job)
        if seen is None and record is None and self.recorded(job) is None:
            return None  # at most logs of a job that never began
        here = self.target is not None and (record is None or _runs_on(record, self.target))
        status = combine(job, seen, record, None, here)
        if status.state != "running" or self.store is None:
            return status
        return replace(status, progress=progress(self.store, job, status.kind))


class Log:
    """What a job has said since the last look: from the store, or else from the cluster."""

    def __init__(self, jobs: Jobs, job: str, source: str | None = None):
        """Look at one source; None: the drivers of all attempts."""
        self._jobs, self._job, self._source = jobs, job, source
        self._read: dict[str, int] = {}
        """By source, bytes that were given out."""

    def new(self, last: bool = False) -> Iterator[tuple[str, bytes]]:
        """Yield source and bytes of what is new; `last`: nobody will look again."""
        sources = self._jobs.sources(self._job)
        if self._source is None:
            sources = [one for one in sources if one.startswith(DRIVER_SOURCE)]
            target = self._jobs.target
            # Before the first look at the store's, a job that ships them is not asked itself.
            own = target and not sources and (last or not target.ships_logs)
            if target and (own or self._jobs.store is None):
                yield from self._from_cluster(target)
                return
        for source in sources:
            if self._source in (None, source) and self._jobs.store:
                start = self._read.get(source, 0)
                for data in read_log(self._jobs.store, self._job, source, start):
                    self._read[source] = self._read.get(source, 0) + len(data)
                    yield source, data

    def _from_cluster(self, target: Target) -> Iterator[tuple[str, bytes]]:
        said = target.output(self._job).encode()
        before = self._read.get(DRIVER_SOURCE, 0)
        if len(said) < before:
            before = 0  # another attempt's
        self._read[DRIVER_SOURCE] = len(said)
        if said[before:]:
            yield DRIVER_SOURCE, said[before:]


def follow(
    jobs: Jobs, job: str, log: Log | None, every_s: float = EVERY_S
) -> Iterator[JobStatus | tuple[str, bytes]]:
    """Yield each change of how a job stands, and what it says, until it has ended.

    A cluster that does not answer is asked again for a minute.

    Raises:
        NotFoundError: there is no such job.
        ClusterLost: it answers no more; how to look later.
    """
    last: JobStatus | None = None
    silent_since: float | None = None
    while True:
        try:
            status = jobs.status(job)
            if status != last and not status.has_ended:
                last = status
                yield status
            if log:
                yield from log.new()
            silent_since = None
        except (ClusterLost, StoreError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > LOST_S:
                raise ClusterLost(
                    f"{error}; the job may well go on: look later with graft jobs show {job}, "
                    f"or go on here with graft jobs logs {job} -f"
                ) from error
            time.sleep(every_s)
            continue
        if status.has_ended:
            if log:  # the last words come after the verdict
                time.sleep(2 * every_s)
                with contextlib.suppress(ClusterLost, StoreError):
                    yield from log.new(last=True)
            yield status
            return
        time.sleep(every_s)


def _runs_on(record: JobRecord, target: Target) -> bool:
    """Whether a job was sent to this cluster, by whichever way its sender reached it."""
    return record.cluster == target.cluster if record.cluster else record.where == target.where


def progress(store: Store, job: str, kind: str) -> str | None:
    """Return how far a job's run, sweep or report is, on a line; None before its first epoch."""
    known = {
        "finetune": _run_progress,
        "sweep": _sweep_progress,
        "transfer-report": _report_progress,
    }
    return known[kind](store, job) if kind in known else None


def _run_progress(store: Store, run: str) -> str | None:
    epoch = latest_epoch(store, run)
    if epoch is None:
        return None
    accuracy, loss = epoch.val["accuracy"], epoch.val["loss"]
    return (
        f"epoch {epoch.epoch}/{read_spec(store, run).train.epochs}, "
        f"val accuracy {accuracy:.4f} loss {loss:.4f}"
    )


def _sweep_progress(store: Store, sweep_id: str) -> str | None:
    from graft.sweep.results import best_trial, read_plan, read_sweep, read_trials

    try:
        sweep = read_sweep(store, sweep_id)
    except NotFoundError:
        return None
    trials = read_trials(store, sweep_id)
    done = f"{len(trials)} of {read_plan(store, sweep_id).count} trials done"
    best = best_trial(trials, sweep.search.metric, sweep.search.mode)
    return f"{done}, best {sweep.search.metric} {best.value:.4f}" if best else done


def _report_progress(store: Store, report: str) -> str | None:
    for part in ("seeds", "rates"):  # the later one first
        if done := _sweep_progress(store, f"{report}-{part}"):
            return f"{part}: {done}"
    return None
