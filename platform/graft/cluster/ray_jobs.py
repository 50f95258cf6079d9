"""Jobs on a running Ray cluster, by its Jobs API; Graft is installed on the cluster's nodes."""

import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from graft.cluster.job_records import ClusterIdentity, Owner
from graft.cluster.pod_troubles import on_a_line
from graft.cluster.rayjob_manifest import Submission, spec_digest, travels_through_store
from graft.cluster.status import ENDED, ClusterStatus, JobState
from graft.errors import ClusterLost, InputError
from graft.registry import user_and_host
from graft.spec import dump_job

TIMEOUT_S = 30.0
AGENTS_S = 60.0
"""Seconds in which a cluster that has just started has to take a job."""
ENDS_S = 30.0
"""Seconds in which Ray has to see the end of a driver that has recorded it."""
ENTRYPOINT = "graft run-job"
STATES: dict[str, JobState] = {
    "PENDING": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


class RayJobs:
    """The jobs of one Ray cluster."""

    ships_logs = False
    store_is_volume = False

    def __init__(self, address: str, store: str):
        """Reach a cluster.

        Args:
            address: URL of its dashboard, ``http://HOST:8265``.
            store: URI of the store; the cluster's nodes have their own credentials for it.

        Raises:
            InputError: the address is no URL.
        """
        self._address = address
        self.identity = ClusterIdentity(place=address, uid=address)
        self._store = store
        token = _token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._client = httpx.Client(base_url=address, timeout=TIMEOUT_S, headers=headers)
        except httpx.InvalidURL as error:
            raise InputError(f"--address {address}: {error}") from error
        if self._client.base_url.scheme not in ("http", "https"):
            raise InputError(f"--address {address}: expected http://HOST:8265")

    def check(self, submission: Submission) -> list[str]:
        """See `ClusterJobs`."""
        if submission.image or submission.resource_class or submission.settings:
            raise InputError(
                "--image, --class and --set jobs.* choose pods; a running Ray cluster has its own"
            )
        self._request("GET", "/api/version")
        return []

    def show(self, submission: Submission, as_json: bool) -> str:
        """See `ClusterJobs`."""
        return json.dumps(self._body(submission), indent=2) + "\n"

    def submit(self, submission: Submission) -> None:
        """See `ClusterJobs`."""
        body = self._body(submission)
        status = self.find(submission.job)
        if status is None:
            self._post(body)
            status = self.find(submission.job)
        if status is None or status.digest != spec_digest(dump_job(submission.spec)):
            raise InputError(
                f"there is a job '{submission.job}' with another spec at {self._address}; "
                "choose another --id"
            )

    def _post(self, body: dict[str, Any]) -> None:
        """Send a job; a Ray that has just started has no agents yet, which jobs need."""
        deadline = time.monotonic() + AGENTS_S
        while True:
            try:
                self._request("POST", "/api/jobs/", body)
            except InputError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def find(self, job: str) -> ClusterStatus | None:
        """See `ClusterJobs`."""
        answer = self._request("GET", _path(job), none_at=404)
        return _status(answer) if answer else None

    def all(self) -> list[ClusterStatus]:
        """See `ClusterJobs`."""
        jobs = self._request("GET", "/api/jobs/")
        return [_status(job) for job in jobs if (job.get("metadata") or {}).get("graft")]

    def cancel(self, job: str) -> None:
        """See `ClusterJobs`."""
        self._request("POST", f"{_path(job)}/stop", none_at=404)

    def remove(self, job: str, over: ClusterStatus | None = None, wait: bool = True) -> None:
        """See `ClusterJobs`; Ray lets nobody remove what it has not seen the end of."""
        deadline = time.monotonic() + ENDS_S
        while over and (status := self.find(job)) and status.state not in ENDED:
            if time.monotonic() > deadline:
                raise ClusterLost(
                    f"{job} has recorded its end, and Ray at {self._address} still does not say "
                    f"so after {ENDS_S:.0f} s; try again"
                )
            time.sleep(0.5)
        self._request("DELETE", _path(job), none_at=404)

    def tidy(self) -> list[str]:
        """See `ClusterJobs`; Ray forgets jobs by itself."""
        return []

    def owner(self) -> Owner:
        """See `ClusterJobs`; all who have Ray's token are one to it."""
        return Owner(user_and_host())

    def output(self, job: str) -> str:
        """See `ClusterJobs`."""
        answer = self._request("GET", f"{_path(job)}/logs", none_at=404)
        return str(answer["logs"]) if answer else ""

    def _body(self, submission: Submission) -> dict[str, Any]:
        spec = dump_job(submission.spec)
        if "$" in spec and not travels_through_store(spec):
            raise InputError(
                "the spec has a '$', in whose place Ray's Jobs API puts its own variables; "
                "submit it to a namespace, or write it otherwise"
            )
        environment = {
            "GRAFT_STORE": self._store,
            "GRAFT_JOB": submission.job,
            "GRAFT_WHERE": self._address,
            "GRAFT_CLUSTER": self._address,
            **self.owner().environment,
        }
        if not travels_through_store(spec):
            environment["GRAFT_SPEC"] = spec
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            environment["AWS_ENDPOINT_URL"] = endpoint
        return {
            "entrypoint": ENTRYPOINT,
            "submission_id": submission.job,
            "runtime_env": {"env_vars": environment},
            "metadata": {"graft": submission.spec.kind, "spec-sha256": spec_digest(spec)},
        }

    def _request(self, method: str, path: str, body: Any = None, none_at: int | None = None) -> Any:
        """Return the JSON of an answer, None where its status code is `none_at`."""
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ClusterLost(
                f"no answer from Ray's Jobs API at {self._address}: {error or type(error).__name__}"
            ) from error
        if answer.status_code == none_at:
            return None
        if answer.status_code in (401, 403):
            raise InputError(
                f"Ray at {self._address} wants its token: set RAY_AUTH_TOKEN (in Kubernetes it is "
                "in the Secret of the RayCluster's name)"
            )
        if answer.status_code in (429, 502, 503, 504) or (
            answer.status_code >= 500 and method == "GET"
        ):
            raise ClusterLost(f"Ray at {self._address} fails ({answer.status_code})")
        if not answer.is_success:
            reason = on_a_line(answer.text)
            raise InputError(f"Ray at {self._address} refuses ({answer.status_code}): {reason}")
        try:
            return answer.json()
        except ValueError as error:
            raise InputError(
                f"what answers at {self._address} is no Ray dashboard; expected http://HOST:8265"
            ) from error


def _path(job: str) -> str:
    return f"/api/jobs/{quote(job, safe='')}"


def _status(job: dict[str, Any]) -> ClusterStatus:
    """Return how a job of Ray's stands, from what its Jobs API says of it."""
    environment = ((job.get("runtime_env") or {}).get("env_vars")) or {}
    metadata = job.get("metadata") or {}
    spec = environment.get("GRAFT_SPEC")
    state = STATES[job["status"]]
    return ClusterStatus(
        job=job["submission_id"],
        kind=metadata.get("graft", ""),
        state=state,
        why=on_a_line(job.get("message")) if state == "failed" else None,
        spec=spec,
        digest=metadata.get("spec-sha256") or (spec and spec_digest(spec)),
    )


def _token() -> str | None:
    """Return the cluster's token, from where Ray's own clients take it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None
