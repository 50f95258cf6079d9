"""Showing a job while it lasts: its log on stdout, its state on stderr."""

import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from graft.cli.show.output import emit, note
from graft.errors import GraftError, Interrupted, RunFailed

if TYPE_CHECKING:
    from graft.cluster.job_overview import Jobs
    from graft.cluster.log_following import Log, LogChunk
    from graft.cluster.status import JobStatus


def follow_to_the_end(
    jobs: "Jobs", job: str, json: bool, logs: bool = True, timeout_s: float | None = None
) -> None:
    """Show a job's log, where `logs`, and its state, until it has ended.

    Raises:
        RunFailed: the job failed, or was cancelled.
        StillRuns: it has not ended within `timeout_s`.
        Interrupted: the user pressed Ctrl-C; the job goes on.
    """
    from graft.cluster.log_following import Log

    log = Log(jobs, job) if logs else None
    status = _follow(jobs, job, log, Output(json), timeout_s)
    show_status(status, json)
    if status.state != "succeeded":
        raise RunFailed(f"{job} {status}; what it said: graft jobs logs {job}")


def show_status(status: "JobStatus", json: bool) -> None:
    """Print a job's state."""
    from rich.text import Text

    emit(status.document(), json, lambda: Text(f"{status.job} {status}"))


def follow_log(jobs: "Jobs", job: str, log: "Log", output: "Output") -> None:
    """Show a job's log until the job has ended, well or not."""
    _follow(jobs, job, log, output)


class Output:
    """Prints the bytes of a job's logs as text; a character may come in two pieces."""

    def __init__(
        self, json: bool = False, timestamps: bool = False, tail: int | None = None
    ) -> None:
        """Print on stdout; on stderr, if stdout is for a JSON document.

        Args:
            json: whether stdout is for a document.
            timestamps: whether each line begins with when it was shipped, in UTC.
            tail: how many lines to keep of what is shown before `release`; None: all of them.
        """
        self._stream = sys.stderr if json else sys.stdout
        self._timestamps = timestamps
        self._decoders: dict[str, IncrementalDecoder] = {}
        self._open: str | None = None
        """The source whose last line has no end yet."""
        self._held = None if tail is None else deque[str](maxlen=tail)

    def show(self, chunk: "LogChunk") -> None:
        """Print the next bytes of a source's log."""
        new = getincrementaldecoder("utf-8")
        decoder = self._decoders.setdefault(chunk.source, new(errors="replace"))
        if self._open not in (None, chunk.source):
            self._write("\n", begins=False)  # that of a driver that was killed, say
            self._open = None
        stamp = f"{chunk.shipped:%Y-%m-%dT%H:%M:%SZ} " if chunk.shipped else ""
        for line in decoder.decode(chunk.data).splitlines(keepends=True):
            begins = self._open is None
            self._write(stamp + line if begins and self._timestamps else line, begins)
            self._open = None if line.endswith("\n") else chunk.source
        self._stream.flush()

    def _write(self, text: str, begins: bool) -> None:
        """Print, or keep, what begins a line or goes on with the last one."""
        if self._held is None:
            self._stream.write(text)
        elif self._held and not begins:
            self._held[-1] += text
        else:
            self._held.append(text)

    def release(self) -> None:
        """Print the lines that were kept, and from now on everything."""
        self._stream.writelines(self._held or ())
        self._stream.flush()
        self._held = None


def _follow(
    jobs: "Jobs",
    job: str,
    log: "Log | None",
    output: Output,
    timeout_s: float | None = None,
) -> "JobStatus":
    from graft.cluster.log_following import follow
    from graft.cluster.status import JobStatus

    status: JobStatus | None = None
    shown = ""
    try:
        for item in follow(jobs, job, log, timeout_s=timeout_s):
            if not isinstance(item, JobStatus):
                output.show(item)
                continue
            status = item
            # Where the log is shown, it has the epochs already.
            runs = log is not None and status.state == "running"
            text = str(replace(status, progress=None) if runs else status)
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
