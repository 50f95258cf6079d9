"""Following a job: its log on stdout, how it stands on stderr."""

import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from typing import TYPE_CHECKING

from graft.cli.output import emit
from graft.cli.target import note
from graft.errors import GraftError, Interrupted, RunFailed

if TYPE_CHECKING:
    from graft.cluster.status import JobStatus
    from graft.cluster.watch import Jobs, Log


def follow_to_the_end(jobs: "Jobs", job: str, json: bool, logs: bool = True) -> None:
    """Show what a job says, and how it stands, until it has ended.

    Raises:
        RunFailed: it failed, or was cancelled.
        Interrupted: Ctrl-C; the job goes on.
    """
    from graft.cluster.watch import Log

    status = _follow(jobs, job, Log(jobs, job) if logs else None, json)
    show_status(status, json)
    if status.state != "succeeded":
        raise RunFailed(f"{job} {status}; what it said: graft jobs logs {job}")


def show_status(status: "JobStatus", json: bool) -> None:
    """Print how a job stands."""
    from rich.text import Text

    emit(status.document(), json, lambda: Text(f"{status.job} {status}"))


def follow_log(jobs: "Jobs", job: str, log: "Log") -> None:
    """Show what a job says until it has ended, well or not."""
    _follow(jobs, job, log, json=False)


class Output:
    """Prints what a job says; a character may come in two pieces."""

    def __init__(self, json: bool = False):
        """Print on stdout, or where that is for JSON, on stderr."""
        self._stream = sys.stderr if json else sys.stdout
        self._decoders: dict[str, IncrementalDecoder] = {}

    def show(self, source: str, data: bytes) -> None:
        """Print what a source said."""
        new = getincrementaldecoder("utf-8")
        decoder = self._decoders.setdefault(source, new(errors="replace"))
        self._stream.write(decoder.decode(data))
        self._stream.flush()


def _follow(jobs: "Jobs", job: str, log: "Log | None", json: bool) -> "JobStatus":
    from graft.cluster.status import JobStatus
    from graft.cluster.watch import follow

    status: JobStatus | None = None
    shown, output = "", Output(json)
    try:
        for item in follow(jobs, job, log):
            if not isinstance(item, JobStatus):
                output.show(*item)
                continue
            status = item
            # Its epochs are in the log.
            text = status.state if log and status.state == "running" else str(status)
            if text != shown and not status.has_ended:
                note(f"{job} {text}")
            shown = text
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"{job} goes on; follow it again with graft jobs logs {job} -f, "
            f"or stop it with graft jobs cancel {job}"
        ) from error
    if status is None:
        raise GraftError(f"{job}: nothing is known of it")
    return status
