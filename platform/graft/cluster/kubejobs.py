"""Jobs in a namespace of Kubernetes: checked, sent, looked at and deleted as RayJobs."""

import json
from dataclasses import replace
from io import StringIO

from pydantic import ValidationError
from ruamel.yaml import YAML

from graft.cluster.checks import misfits, over_quota, pod_requests, without_limits
from graft.cluster.kube import Conflict, Kube, Object, UnknownField
from graft.cluster.profile import Profile
from graft.cluster.rayjob import (
    GROUP,
    JOB_ID,
    JOB_LABEL,
    PLURAL,
    VERSION,
    Submission,
    rayjob,
    sent_spec,
)
from graft.cluster.status import Seen, seen
from graft.errors import InputError, NotFoundError
from graft.spec import parse_yaml
from graft.spec.explain import explain

PROFILE_LABEL = "graft.dev/profile"
PROFILE_KEY = "profile.yaml"
RAYJOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{{ns}}/{PLURAL}"
CORE = "/api/v1/namespaces/{ns}"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def find_profile(kube: Kube, name: str | None = None) -> tuple[Profile, str]:
    """Return the profile of a namespace, which the chart made, and its ConfigMap's UID.

    Raises:
        InputError: there is no such namespace, no profile in it, or several and no `name`.
    """
    maps = kube.items(f"{CORE}/configmaps", labelSelector=f"{PROFILE_LABEL}=true")
    found = {one["metadata"]["name"]: one for one in maps}
    if not found:
        _require_namespace(kube)
        raise InputError(
            f"no Graft in namespace {kube.namespace}: no ConfigMap with the label "
            f"{PROFILE_LABEL}; install it (helm install graft helm/graft --namespace "
            f"{kube.namespace} --set store.uri=s3://...), or name another --namespace"
        )
    if name is None and len(found) > 1:
        raise InputError(
            f"namespace {kube.namespace} has several profiles; "
            f"choose one with --profile: {', '.join(sorted(found))}"
        )
    if name is not None and name not in found:
        raise InputError(
            f"no profile '{name}' in namespace {kube.namespace}; it has: {', '.join(sorted(found))}"
        )
    chosen = name or next(iter(found))
    where = f"profile {chosen} of namespace {kube.namespace}"
    try:
        text = found[chosen]["data"][PROFILE_KEY]
        return Profile.model_validate(parse_yaml(text, where)), found[chosen]["metadata"]["uid"]
    except ValidationError as error:
        problems = "; ".join(explain(where, Profile, error))
        raise InputError(f"made for another release of Graft: {problems}") from error


def _require_namespace(kube: Kube) -> None:
    try:
        kube.get(CORE)
    except NotFoundError as error:
        raise InputError(
            f"no namespace '{kube.namespace}' at {kube.server}; name another --namespace"
        ) from error
    except InputError:
        return  # it may not be looked at


class KubeJobs:
    """The jobs of one namespace."""

    ships_logs = True

    def __init__(self, kube: Kube, profile: Profile, uid: str):
        """Use a namespace; `uid` is that of its profile's ConfigMap."""
        self._kube, self._profile, self.cluster = kube, profile, uid
        self.where = f"namespace {kube.namespace} at {kube.server}"

    def check(self, submission: Submission) -> list[str]:
        """See `Target`."""
        manifest = self._manifest(submission)
        self._require_kuberay()
        problems, notes = self._secret_problems()
        pods = pod_requests(manifest)
        quotas = self._kube.items(f"{CORE}/resourcequotas")
        problems += without_limits(pods, quotas, self._kube.items(f"{CORE}/limitranges"))
        if not self._profile.resource_class(submission.resource_class)[1].autoscaled:
            try:
                problems += misfits(pods, self._kube.items("/api/v1/nodes"))
            except InputError as error:
                notes.append(f"whether a node could hold its pods is not checked: {error}")
        if problems:
            raise InputError(f"this job could never run in {self.where}: {'; '.join(problems)}")
        # With a queue, Kueue lets it wait.
        if not self._profile.queue and (problems := over_quota(pods, quotas)):
            raise InputError(
                f"this job does not fit {self.where} now, nothing was sent: {'; '.join(problems)}"
            )
        return notes

    def show(self, submission: Submission, as_json: bool) -> str:
        """See `Target`."""
        manifest = self._manifest(submission)
        if as_json:
            return json.dumps(manifest, indent=2) + "\n"
        yaml, text = YAML(), StringIO()
        yaml.dump(manifest, text)
        return text.getvalue()

    def submit(self, submission: Submission) -> None:
        """See `Target`."""
        manifest = self._manifest(submission)
        try:
            made = self._kube.create(RAYJOBS, manifest)
        except Conflict:
            made = self._kube.get(f"{RAYJOBS}/{submission.job}")
        except UnknownField as error:
            raise InputError(
                f"this cluster's KubeRay is older than 1.6, or its CRDs are: {error}"
            ) from error
        if JOB_LABEL not in made["metadata"].get("labels", {}) or sent_spec(made) != sent_spec(
            manifest
        ):
            raise InputError(
                f"there is a job '{submission.job}' with another spec in {self.where}; "
                "choose another --id"
            )

    def find(self, job: str) -> Seen | None:
        """See `Target`."""
        if not JOB_ID.fullmatch(job):
            return None
        try:
            found = self._kube.get(f"{RAYJOBS}/{job}")
        except NotFoundError:
            return None
        return self._seen(found) if JOB_LABEL in found["metadata"].get("labels", {}) else None

    def all(self) -> list[Seen]:
        """See `Target`."""
        self._require_kuberay()
        return [self._seen(one) for one in self._kube.items(RAYJOBS, labelSelector=JOB_LABEL)]

    def cancel(self, job: str) -> None:
        """See `Target`."""
        if self.find(job):
            self._kube.delete(f"{RAYJOBS}/{job}")

    def output(self, job: str) -> str:
        """See `Target`."""
        pods = self._kube.items(f"{CORE}/pods", labelSelector=f"job-name={job}")
        if not pods:
            return ""
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        if newest["status"]["phase"] == "Pending":
            return ""
        return self._kube.text(f"{CORE}/pods/{newest['metadata']['name']}/log")

    def _manifest(self, submission: Submission) -> Object:
        sent = replace(submission, where=self.where, cluster=self.cluster)
        manifest = rayjob(sent, self._profile)
        return manifest | {"metadata": manifest["metadata"] | {"namespace": self._kube.namespace}}

    def _seen(self, found: Object) -> Seen:
        known = seen(found, [])
        if known.state != "starting":
            return known
        pods = self._kube.items(f"{CORE}/pods", labelSelector=f"{JOB_LABEL}={known.job}")
        return seen(found, pods)

    def _require_kuberay(self) -> None:
        """Find out whether the cluster knows RayJobs, of the version that is sent."""
        try:
            known = self._kube.get(f"/apis/{GROUP}/{VERSION}")["resources"]
        except NotFoundError as error:
            try:
                versions = self._kube.get(f"/apis/{GROUP}")["versions"]
            except NotFoundError:
                raise InputError(
                    "KubeRay is not installed in this cluster: it knows no RayJob; "
                    "its administrator has to install the KubeRay operator, 1.6 or newer"
                ) from error
            have = ", ".join(one["version"] for one in versions)
            raise InputError(
                f"this cluster's KubeRay is too old: it has {GROUP}/{have}, "
                f"Graft needs {GROUP}/{VERSION} of KubeRay 1.6 or newer"
            ) from error
        if not any(one["name"] == PLURAL for one in known):
            raise InputError(f"this cluster's KubeRay has no {PLURAL}.{GROUP}; install its CRDs")

    def _secret_problems(self) -> tuple[list[str], list[str]]:
        """Return what is wrong with the store's credentials, and what could not be checked."""
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
