"""Jobs on a running Ray cluster, by its Jobs API; what a job needs lies on the cluster's nodes."""

import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from graft.cluster.rayjob import Submission
from graft.cluster.status import Seen, State, on_a_line
from graft.errors import ClusterLost, InputError
from graft.spec import dump_job

TIMEOUT_S = 30.0
AGENTS_S = 60.0
"""For a cluster that has just started to take jobs."""
ENTRYPOINT = "graft run-job"
STATES: dict[str, State] = {
    "PENDING": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


class RayJobs:
    """The jobs of one Ray cluster."""

    ships_logs = False

    def __init__(self, address: str, store: str):
        """Reach a cluster.

        Args:
            address: URL of its dashboard, ``http://HOST:8265``.
            store: URI of the store; the cluster's nodes have their own credentials for it.

        Raises:
            InputError: the address is no URL.
        """
        self.where = self.cluster = address
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
        """See `Target`."""
        if submission.image or submission.resource_class:
            raise InputError("--image and --class choose pods; a running Ray cluster has its own")
        self._request("GET", "/api/version")
        return []

    def show(self, submission: Submission, as_json: bool) -> str:
        """See `Target`."""
        return json.dumps(self._body(submission), indent=2) + "\n"

    def submit(self, submission: Submission) -> None:
        """See `Target`."""
        body = self._body(submission)
        there = self.find(submission.job)
        if there is None:
            self._post(body)
            there = self.find(submission.job)
        if there is None or there.spec != dump_job(submission.spec):
            raise InputError(
                f"there is a job '{submission.job}' with another spec at {self.where}; "
                "choose another --id"
            )

    def _post(self, body: dict[str, Any]) -> None:
        """Send a job to a Ray that may have started just now: its agents come a little later."""
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

    def find(self, job: str) -> Seen | None:
        """See `Target`."""
        found = self._request("GET", f"/api/jobs/{quote(job, safe='')}", none_at=404)
        return _seen(found) if found else None

    def all(self) -> list[Seen]:
        """See `Target`."""
        found = self._request("GET", "/api/jobs/")
        return [_seen(one) for one in found if (one.get("metadata") or {}).get("graft")]

    def cancel(self, job: str) -> None:
        """See `Target`."""
        self._request("POST", f"/api/jobs/{quote(job, safe='')}/stop", none_at=404)

    def output(self, job: str) -> str:
        """See `Target`."""
        found = self._request("GET", f"/api/jobs/{quote(job, safe='')}/logs", none_at=404)
        return str(found["logs"]) if found else ""

    def _body(self, submission: Submission) -> dict[str, Any]:
        spec = dump_job(submission.spec)
        if "$" in spec:
            raise InputError(
                "the spec has a '$', in whose place Ray's Jobs API puts its own variables; "
                "submit it to a namespace, or write it otherwise"
            )
        given = {
            "GRAFT_STORE": self._store,
            "GRAFT_JOB": submission.job,
            "GRAFT_SPEC": spec,
            "GRAFT_WHERE": self.where,
            "GRAFT_CLUSTER": self.cluster,
        }
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            given["AWS_ENDPOINT_URL"] = endpoint
        return {
            "entrypoint": ENTRYPOINT,
            "submission_id": submission.job,
            "runtime_env": {"env_vars": given},
            "metadata": {"graft": submission.spec.kind},
        }

    def _request(self, method: str, path: str, body: Any = None, none_at: int | None = None) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ClusterLost(
                f"no answer from Ray's Jobs API at {self.where}: {error or type(error).__name__}"
            ) from error
        if answer.status_code == none_at:
            return None
        if answer.status_code in (401, 403):
            raise InputError(
                f"Ray at {self.where} wants its token: set RAY_AUTH_TOKEN (in Kubernetes it is in "
                "the Secret of the RayCluster's name)"
            )
        if answer.status_code >= 500 and method == "GET":
            raise ClusterLost(f"Ray at {self.where} fails ({answer.status_code})")
        if not answer.is_success:
            said = on_a_line(answer.text)
            raise InputError(f"Ray at {self.where} refuses ({answer.status_code}): {said}")
        try:
            return answer.json()
        except ValueError as error:
            raise InputError(
                f"what answers at {self.where} is no Ray dashboard; expected http://HOST:8265"
            ) from error


def _seen(found: dict[str, Any]) -> Seen:
    given = ((found.get("runtime_env") or {}).get("env_vars")) or {}
    state = STATES[found["status"]]
    return Seen(
        job=found["submission_id"],
        kind=(found.get("metadata") or {}).get("graft", ""),
        state=state,
        why=on_a_line(found.get("message")) if state == "failed" else None,
        spec=given.get("GRAFT_SPEC"),
    )


def _token() -> str | None:
    """Return the cluster's token, from where Ray's own clients take it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None
