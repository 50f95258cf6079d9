"""A cluster of jobs that answers as a test tells it to."""

from collections.abc import Callable

from graft.cluster.job_records import ClusterIdentity, Owner
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.status import ENDED, ClusterStatus
from graft.errors import InputError


class Scripted:
    """A cluster that answers as it is told, one answer a look; the last one stays."""

    identity, ships_logs = ClusterIdentity("a test", "uid"), True
    store_is_volume = False

    def __init__(self, *answers: Callable[[], ClusterStatus | None]):
        self._answers = list(answers)
        self._last: ClusterStatus | None = None
        self.said = self.refuses = ""
        self.cancelled = ""
        self.sent: list[Submission] = []
        self.removed: list[str] = []
        self.old: list[str] = []
        """What it removes where somebody tidies up."""

    def find(self, job: str) -> ClusterStatus | None:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        self._last = answer()
        return self._last

    def all(self) -> list[ClusterStatus]:
        status = self.find("one")
        return [status] if status else []

    def output(self, job: str) -> str:
        return self.said

    def cancel(self, job: str) -> None:
        self.cancelled = job

    def check(self, submission: Submission) -> list[str]:
        if self.refuses:
            raise InputError(self.refuses)
        return ["the queue is not checked"]

    def show(self, submission: Submission, as_json: bool) -> str:
        return "{}"

    def submit(self, submission: Submission) -> None:
        self.sent.append(submission)

    def remove(self, job: str, over: ClusterStatus | None = None, wait: bool = True) -> None:
        status = self._last
        if status and status.state not in ENDED and status != over:
            raise InputError(f"{job} has not ended; graft jobs cancel {job} ends it")
        self.removed.append(job)

    def tidy(self) -> list[str]:
        return self.old

    def owner(self) -> Owner:
        return Owner("ada", self_declared=False)


def answer(state: str, why: str | None = None) -> Callable[[], ClusterStatus | None]:
    return lambda: ClusterStatus("one", "finetune", state, why)  # type: ignore[arg-type]
