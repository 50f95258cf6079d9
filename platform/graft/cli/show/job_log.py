"""Showing a job while it lasts: its log on stdout, its state on stderr."""

import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from typing import TYPE_CHECKING

from graft.cli.show.output import emit, note
from graft.errors import GraftError, Interrupted, RunFailed

if TYPE_CHECKING:
    from graft.cluster.job_overview import Jobs
    from graft.cluster.log_following import Log
    from graft.cluster.status import JobStatus


def follow_to_the_end(jobs: "Jobs", job: str, json: bool, logs: bool = True) -> None:
    """Show a job's log, where `logs`, and its state, until it has ended.

    Raises:
        RunFailed: the job failed, or was cancelled.
        Interrupted: the user pressed Ctrl-C; the job goes on.
    """
    from graft.cluster.log_following import Log

    status = _follow(jobs, job, Log(jobs, job) if logs else None, json)
    show_status(status, json)
    if status.state != "succeeded":
        raise RunFailed(f"{job} {status}; what it said: graft jobs logs {job}")


def show_status(status: "JobStatus", json: bool) -> None:
    """Print a job's state."""
    from rich.text import Text

    emit(status.document(), json, lambda: Text(f"{status.job} {status}"))


def follow_log(jobs: "Jobs", job: str, log: "Log") -> None:
    """Show a job's log until the job has ended, well or not."""
    _follow(jobs, job, log, json=False)


class Output:
    """Prints the bytes of a job's logs as text; a character may come in two pieces."""

    def __init__(self, json: bool = False):
        """Print on stdout; on stderr, if stdout is for a JSON document."""
        self._stream = sys.stderr if json else sys.stdout
        self._decoders: dict[str, IncrementalDecoder] = {}

    def show(self, source: str, data: bytes) -> None:
        """Print the next bytes of a source's log."""
        new = getincrementaldecoder("utf-8")
        decoder = self._decoders.setdefault(source, new(errors="replace"))
        self._stream.write(decoder.decode(data))
        self._stream.flush()


def _follow(jobs: "Jobs", job: str, log: "Log | None", json: bool) -> "JobStatus":
    from graft.cluster.log_following import follow
    from graft.cluster.status import JobStatus

    status: JobStatus | None = None
    shown, output = "", Output(json)
    try:
        for item in follow(jobs, job, log):
            if not isinstance(item, JobStatus):
                output.show(*item)
                continue
            status = item
            # Where the log is shown, it has the epochs already.
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
