"""Jobs in a namespace of Kubernetes, each of which is a RayJob there."""

import json
import time
from dataclasses import replace
from functools import cached_property
from io import StringIO

from ruamel.yaml import YAML

from graft.cluster.capacity import misfits, over_quota, pod_requests, without_cpu_limits
from graft.cluster.cluster_jobs import prune_jobs
from graft.cluster.job_id import JOB_ID
from graft.cluster.job_records import ClusterIdentity, Owner
from graft.cluster.kubernetes_api import Kube, KubeConflict, KubeObject, UnknownField
from graft.cluster.kueue import admission_reason, queue_problem
from graft.cluster.pod_templates import JOB_LABEL
from graft.cluster.pod_troubles import NODE_TYPE
from graft.cluster.profile import Profile
from graft.cluster.rayjob_manifest import (
    GROUP,
    PLURAL,
    VERSION,
    Submission,
    rayjob,
    sent_digest,
)
from graft.cluster.releases import check_release, read_profile
from graft.cluster.status import ENDED, ClusterStatus, rayjob_status, rivals
from graft.errors import ClusterLost, InputError, NotFoundError, QuotaFull
from graft.registry import user_and_host

PROFILE_LABEL = "graft.dev/profile"
CLOSED = "closed"
"""Value of that label where the profile takes no jobs; else `true`."""
PROFILE_KEY = "profile.yaml"
RAYJOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{{ns}}/{PLURAL}"
CORE = "/api/v1/namespaces/{ns}"
RELEASE = "graft.dev/release"
"""Label of all that a release of the chart makes."""
PRUNED = 20
"""The most jobs that are removed where another one is sent."""
REMOVED_S = 60.0
"""Seconds in which the operator lets a RayJob go that was deleted."""
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def find_profile(kube: Kube, name: str | None = None) -> tuple[Profile, ClusterIdentity]:
    """Return the profile that the chart put into a namespace, and what names both.

    Args:
        kube: the namespace.
        name: of the profile; None where the namespace has one only, or one only that takes jobs.

    Raises:
        InputError: there is no such namespace, no profile in it, or several and no `name`.
    """
    maps = kube.items(f"{CORE}/configmaps", labelSelector=PROFILE_LABEL)
    profiles = {profile["metadata"]["name"]: profile for profile in maps}
    if not profiles:
        _require_namespace(kube)
        raise InputError(
            f"no Graft in namespace {kube.namespace}: no ConfigMap with the label "
            f"{PROFILE_LABEL}; install it (helm install graft helm/graft --namespace "
            f"{kube.namespace} --set image.repository=... --set store.uri=s3://...), or name "
            "another --namespace"
        )
    if name is None and len(profiles) > 1:
        closed = [key for key, found in profiles.items() if _label(found) == CLOSED]
        if len(profiles) - len(closed) == 1:
            profiles = {key: profiles[key] for key in profiles.keys() - closed}
    if name is None and len(profiles) > 1:
        raise InputError(
            f"namespace {kube.namespace} has several profiles; "
            f"choose one with --profile or GRAFT_PROFILE: {', '.join(sorted(profiles))}"
        )
    if name is not None and name not in profiles:
        raise InputError(
            f"no profile '{name}' in namespace {kube.namespace}; "
            f"it has: {', '.join(sorted(profiles))}"
        )
    name = name or next(iter(profiles))
    title = f"profile {name} of namespace {kube.namespace}"
    text = (profiles[name].get("data") or {}).get(PROFILE_KEY, "")
    return read_profile(text, title), _identity(kube, name, profiles[name]["metadata"]["uid"])


def _identity(kube: Kube, profile: str, map_uid: str) -> ClusterIdentity:
    """Return what names a profile of a namespace, also where the chart is installed anew.

    `map_uid`: UID of the profile's ConfigMap, which earlier releases took for that.
    """
    place = f"namespace {kube.namespace} at {kube.server}"
    try:
        namespace = kube.get(CORE)["metadata"]["uid"]
    except ClusterLost:
        raise
    except InputError:  # submitters of an earlier chart have no right to look
        return ClusterIdentity(place, map_uid)
    return ClusterIdentity(place, f"{namespace}/{profile}", formerly=map_uid)


def _label(profile: KubeObject) -> str | None:
    return (profile["metadata"].get("labels") or {}).get(PROFILE_LABEL)


def _require_namespace(kube: Kube) -> None:
    try:
        kube.get(CORE)
    except NotFoundError as error:
        raise InputError(
            f"no namespace '{kube.namespace}' at {kube.server}; name another --namespace"
        ) from error
    except ClusterLost:
        raise
    except InputError:
        return  # this user may not look at namespaces


class KubeJobs:
    """The jobs of one namespace."""

    ships_logs = True

    def __init__(self, kube: Kube, profile: Profile, identity: ClusterIdentity):
        """Use a namespace with the profile that it has, and what names them."""
        self._kube, self._profile = kube, profile
        self.store_is_volume = profile.store_claim is not None
        self.identity = identity

    def check(self, submission: Submission) -> list[str]:
        """See `ClusterJobs`."""
        if not self._profile.takes_jobs:
            raise InputError(
                f"{self.identity.place} takes no jobs (jobs.enabled is false in its chart's "
                "values); those that were sent before go on"
            )
        manifest = self._manifest(submission)
        image = self._profile.image_for(submission.image)
        check_release(submission.current, self._profile, image)
        self._require_kuberay()
        problems, notes = self._secret_problems()
        profile = self._profile.with_settings(submission.settings)
        if profile.queue:
            try:
                problem = queue_problem(self._kube, profile.queue)
                problems += [problem] if problem else []
            except InputError as error:
                notes.append(f"the queue '{profile.queue}' is not checked: {error}")
        pods = pod_requests(manifest)
        quotas = self._kube.items(f"{CORE}/resourcequotas")
        problems += without_cpu_limits(pods, quotas, self._kube.items(f"{CORE}/limitranges"))
        if not profile.resource_class(submission.resource_class)[1].autoscaled:
            try:
                problems += misfits(pods, self._kube.items("/api/v1/nodes"))
            except InputError as error:
                notes.append(f"whether a node could hold its pods is not checked: {error}")
        again = self.find(submission.job) is not None  # its RayJob makes room for the next one
        over = over_quota(pods, quotas, rayjobs=0 if again else 1)
        if problems := [*problems, *over.alone]:
            raise InputError(
                f"this job could never run in {self.identity.place}: {'; '.join(problems)}"
            )
        if over.now and not profile.queue:  # where there is one, Kueue lets a job wait
            raise QuotaFull(
                f"this job does not fit {self.identity.place} now, nothing was sent: "
                f"{'; '.join(over.now)}; try again when other jobs have ended"
            )
        return notes

    def show(self, submission: Submission, as_json: bool) -> str:
        """See `ClusterJobs`."""
        manifest = self._manifest(submission)
        if as_json:
            return json.dumps(manifest, indent=2) + "\n"
        yaml, text = YAML(), StringIO()
        yaml.dump(manifest, text)
        return text.getvalue()

    def submit(self, submission: Submission) -> None:
        """See `ClusterJobs`."""
        manifest = self._manifest(submission)
        try:
            stored = self._kube.create(RAYJOBS, manifest)
        except KubeConflict:
            stored = self._kube.get(f"{RAYJOBS}/{submission.job}")
        except UnknownField as error:
            raise InputError(
                f"this cluster's KubeRay is older than 1.6, or its CRDs are: {error}"
            ) from error
        if not _is_graft_job(stored) or sent_digest(stored) != sent_digest(manifest):
            raise InputError(
                f"there is a job '{submission.job}' with another spec in "
                f"{self.identity.place}; choose another --id"
            )

    def find(self, job: str) -> ClusterStatus | None:
        """See `ClusterJobs`."""
        if not JOB_ID.fullmatch(job):
            return None
        try:
            stored = self._kube.get(f"{RAYJOBS}/{job}")
        except NotFoundError:
            return None
        return self._statuses([stored])[0] if self._is_ours(stored) else None

    def all(self) -> list[ClusterStatus]:
        """See `ClusterJobs`."""
        self._require_kuberay()
        release = self._profile.labels.get(RELEASE)
        selector = f"{JOB_LABEL},{RELEASE}={release}" if release else JOB_LABEL
        return self._statuses(self._kube.items(RAYJOBS, labelSelector=selector))

    def cancel(self, job: str) -> None:
        """See `ClusterJobs`."""
        if self.find(job):
            self._kube.delete(f"{RAYJOBS}/{job}")

    def remove(self, job: str, over: ClusterStatus | None = None, wait: bool = True) -> None:
        """See `ClusterJobs`."""
        try:
            stored = self._kube.get(f"{RAYJOBS}/{job}")
        except NotFoundError:
            return
        going = stored["metadata"].get("deletionTimestamp")
        if not over and not going and rayjob_status(stored, []).state not in ENDED:
            raise InputError(f"{job} has not ended; graft jobs cancel {job} ends it")
        try:
            # Not another one of this name, which somebody may have sent since.
            uid = over.uid if over else stored["metadata"]["uid"]
            self._kube.delete(f"{RAYJOBS}/{job}", uid=uid)
        except KubeConflict as error:
            raise InputError(f"another person has {job} go on: {error}") from error
        deadline = time.monotonic() + REMOVED_S
        while wait and self.find(job):
            if time.monotonic() > deadline:
                raise ClusterLost(
                    f"RayJob {job} is still there {REMOVED_S:.0f} s after it was deleted; is the "
                    "KubeRay operator running?"
                )
            time.sleep(0.5)

    def tidy(self) -> list[str]:
        """See `ClusterJobs`."""
        return prune_jobs(self, self._profile.keep_record_s, PRUNED)

    def owner(self) -> Owner:
        """See `ClusterJobs`."""
        return self._owner

    @cached_property
    def _owner(self) -> Owner:
        user = self._kube.user()
        return Owner(user, self_declared=False) if user else Owner(user_and_host())

    def output(self, job: str) -> str:
        """See `ClusterJobs`."""
        selector = f"{JOB_LABEL}={job},{NODE_TYPE}=head"
        heads = self._kube.items(f"{CORE}/pods", labelSelector=selector)
        running = [pod for pod in heads if pod["status"]["phase"] == "Running"]
        if not running:
            return ""
        newest = max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        # Its sidecar says what it ships.
        return self._kube.text(f"{CORE}/pods/{newest['metadata']['name']}/log", container="logs")

    def _manifest(self, submission: Submission) -> KubeObject:
        sent = replace(submission, cluster=self.identity, owner=self.owner())
        manifest = rayjob(sent, self._profile.with_settings(submission.settings))
        return manifest | {"metadata": manifest["metadata"] | {"namespace": self._kube.namespace}}

    def _statuses(self, stored: list[KubeObject]) -> list[ClusterStatus]:
        """Return how RayJobs stand; what pods say of those that begin or run costs one list."""
        statuses = [rayjob_status(one, []) for one in stored]
        live = [status for status in statuses if status.state in ("starting", "running")]
        selector = JOB_LABEL
        if [status.state for status in live] == ["running"]:
            selector = f"{JOB_LABEL}={live[0].job}"  # others' matter to one that waits alone
        pods: list[KubeObject] = []
        if live:
            try:
                pods = self._kube.items(f"{CORE}/pods", labelSelector=selector)
            except ClusterLost:
                raise
            except InputError:
                pass  # no right to look
        return [
            self._explained(status, one, pods) for status, one in zip(statuses, stored, strict=True)
        ]

    def _explained(
        self, status: ClusterStatus, stored: KubeObject, pods: list[KubeObject]
    ) -> ClusterStatus:
        """Return a status with what a RayJob waits for.

        `pods`: of all jobs.
        """
        if status.state == "queued":
            reason = admission_reason(self._kube, stored["metadata"]["uid"])
            return replace(status, why=f"{status.why}: {reason}") if reason else status
        if status.state not in ("starting", "running"):
            return status
        own = [pod for pod in pods if pod["metadata"]["labels"][JOB_LABEL] == status.job]
        status = rayjob_status(stored, own)
        if status.state == "starting" and (others := rivals(status.job, pods)):
            names = ", ".join(others)
            why = f"{status.why}; {names} waits, too: without a queue (jobs.queue) each may hold"
            return replace(status, why=f"{why} what the other needs, until one is cancelled")
        return status

    def _require_kuberay(self) -> None:
        """Find out whether the cluster has RayJobs of the version that is sent."""
        try:
            resources = self._kube.get(f"/apis/{GROUP}/{VERSION}")["resources"]
        except NotFoundError as error:
            try:
                versions = self._kube.get(f"/apis/{GROUP}")["versions"]
            except NotFoundError:
                raise InputError(
                    "KubeRay is not installed in this cluster: it knows no RayJob; "
                    "its administrator has to install the KubeRay operator, 1.6 or newer"
                ) from error
            listed = ", ".join(version["version"] for version in versions)
            raise InputError(
                f"this cluster's KubeRay is too old: it has {GROUP}/{listed}, "
                f"Graft needs {GROUP}/{VERSION} of KubeRay 1.6 or newer"
            ) from error
        if not any(resource["name"] == PLURAL for resource in resources):
            raise InputError(f"this cluster's KubeRay has no {PLURAL}.{GROUP}; install its CRDs")

    def _secret_problems(self) -> tuple[list[str], list[str]]:
        """Return what the Secret with the store's credentials lacks, and what was not checked."""
        name = self._profile.store_secret
        if not name:
            return [], []
        try:
            secret = self._kube.get(f"{CORE}/secrets/{name}")
        except NotFoundError:
            return [f"there is no Secret '{name}' with the store's credentials"], []
        except InputError as error:
            return [], [f"the store's Secret is not checked: {error}"]
        lacking = [key for key in CREDENTIALS if key not in (secret.get("data") or {})]
        return [f"Secret '{name}' has no {key}" for key in lacking], []

    def _is_ours(self, stored: KubeObject) -> bool:
        """Whether a RayJob is a job of this release: a namespace may have several."""
        release = self._profile.labels.get(RELEASE)
        labels = stored["metadata"].get("labels", {})
        return JOB_LABEL in labels and release in (None, labels.get(RELEASE))


def _is_graft_job(rayjob: KubeObject) -> bool:
    return JOB_LABEL in rayjob["metadata"].get("labels", {})
