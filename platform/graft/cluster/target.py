"""Where jobs are sent: a namespace with a profile (`kubejobs`) or a running Ray (`rayapi`)."""

import re
import secrets
from datetime import UTC, datetime
from typing import Protocol

from graft.cluster.rayjob import NAME_LENGTH, Submission
from graft.cluster.status import Seen


class Target(Protocol):
    """A cluster that runs jobs."""

    where: str
    """Which one it is, for people to read; a job records it."""
    cluster: str
    """Its own name for itself, the same whichever way people reach it; a job records it, too."""
    ships_logs: bool
    """Whether what jobs say gets into the store."""

    def check(self, submission: Submission) -> list[str]:
        """Return what could not be checked, a line each.

        Raises:
            InputError: the job could never run; all reasons are listed.
        """

    def show(self, submission: Submission, as_json: bool) -> str:
        """Return what `submit` would send, as text: YAML where that is what people read."""

    def submit(self, submission: Submission) -> None:
        """Send a job; nothing happens where it is there already, with the same spec.

        Raises:
            InputError: there is a job of that id with another spec.
        """

    def find(self, job: str) -> Seen | None:
        """Return what the cluster says of a job, None where it has none of that id."""

    def all(self) -> list[Seen]:
        """Return what the cluster says of all its jobs."""

    def cancel(self, job: str) -> None:
        """Stop a job and free what it holds; nothing happens where there is none."""

    def output(self, job: str) -> str:
        """Return what the driver of the current attempt has said, as far as it is at hand."""


def new_id(name: str) -> str:
    """Return a job id that begins with a spec's name, as Kubernetes takes it."""
    ending = f"-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    plain = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if not plain[:1].isalpha():
        plain = f"job-{plain}"
    return plain[: NAME_LENGTH - len(ending)].rstrip("-") + ending
