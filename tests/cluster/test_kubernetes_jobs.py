"""What Kubernetes' API is asked before a job is sent, by an API server that has what it is told.

A real one: tests/cluster/e2e.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from colours import colour_spec
from graft import __version__
from graft.cli.cluster_options import ClusterOptions
from graft.cluster.job_records import ClusterIdentity, Owner
from graft.cluster.kubernetes_api import Kube
from graft.cluster.kubernetes_jobs import KubeJobs, find_profile
from graft.cluster.profile import Profile
from graft.cluster.rayjob_manifest import Submission
from graft.errors import TRY_LATER, ClusterLost, InputError, QuotaFull
from graft.spec import Finetune
from graft.spec.since import added

PROFILE: dict[str, Any] = {
    "version": __version__,
    "image": "graft:1",
    "store": "s3://bucket",
    "service_account": "graft",
    "classes": {"cpu": {"autoscaled": True}},
    "default_class": "cpu",
}
TEAM = "/api/v1/namespaces/team"
IDENTITY = ClusterIdentity("namespace team", "uid")
KUEUE = "/apis/kueue.x-k8s.io"
QUEUES = f"{KUEUE}/v1beta1/namespaces/team/localqueues"
WORKLOADS = f"{KUEUE}/v1beta1/namespaces/team/workloads"
RAYJOBS = "/apis/ray.io/v1/namespaces/team/rayjobs"


class Api(ThreadingHTTPServer):
    """Answers GET with the objects of a path; 404 where there are none, 403 where it says so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, Any] = {
            "/apis/ray.io/v1": {"resources": [{"name": "rayjobs"}]},
            f"{TEAM}/resourcequotas": [],
            f"{TEAM}/limitranges": [],
        }
        self.asked: list[str] = []
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        """Status code and answer of what is to be created at a path."""
        self.deleted: list[dict[str, str]] = []
        """The preconditions of what was to be deleted, which never hold."""

    def has_kueue(self, *queues: dict[str, Any]) -> None:
        self.objects[KUEUE] = {"preferredVersion": {"version": "v1beta1"}}
        self.objects[QUEUES] = list(queues)

    def has_profiles(self, **profiles: dict[str, Any]) -> None:
        self.objects[f"{TEAM}/configmaps"] = [
            {
                "metadata": {
                    "name": name,
                    "uid": f"uid-{name}",
                    "labels": {
                        "graft.dev/profile": "true" if profile.get("takes_jobs", True) else "closed"
                    },
                },
                "data": {"profile.yaml": json.dumps(profile)},
            }
            for name, profile in profiles.items()
        ]


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        found = self.server.objects.get(urlsplit(self.path).path, 404)
        status = found if isinstance(found, int) else 200
        answer = self.page(found) if isinstance(found, list) else found
        message = {"message": f"somebody cannot list {self.path}" if status == 403 else "nothing"}
        self.answer(status, answer if status == 200 else message)

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refusal = self.server.refusals.get(urlsplit(self.path).path)
        user = {"status": {"userInfo": {"username": "ada"}}}
        answer = user if sent["kind"] == "SelfSubjectReview" else sent
        self.answer(*refusal or (201, answer))

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def page(self, found: list[Any]) -> dict[str, Any]:
        query = dict(parse_qsl(urlsplit(self.path).query))
        start, limit = int(query.get("continue", "0")), int(query["limit"])
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        return {"items": found[start : start + limit], "metadata": more}

    def do_DELETE(self) -> None:
        options = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.deleted.append(options["preconditions"])
        self.send_response(409)
        self.end_headers()
        self.wfile.write(b'{"message": "the UID in the precondition does not match"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def kube(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kube:
    config = tmp_path / "config"
    cluster = {"name": "one", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}
    context = {"name": "one", "context": {"cluster": "one", "user": "one", "namespace": "team"}}
    user = {"name": "one", "user": {"token": "x"}}
    document = {"current-context": "one", "contexts": [context], "clusters": [cluster]}
    config.write_text(json.dumps(document | {"users": [user], "kind": "Config"}))
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    return Kube.connect()


def check(kube: Kube, **changes: Any) -> list[str]:
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE | changes), IDENTITY)
    return jobs.check(Submission("one", colour_spec()))


def queue(name: str, **active: str) -> dict[str, Any]:
    conditions = [{"type": "Active"} | active] if active else []
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def test_a_queue_that_admits_jobs_is_fine(api: Api, kube: Kube) -> None:
    api.has_kueue(queue("vision", status="True"), queue("new"))
    assert check(kube, queue="vision") == check(kube, queue="new") == []


def test_a_queue_that_one_job_is_to_have_is_checked(api: Api, kube: Kube) -> None:
    api.has_kueue(queue("vision"))
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE | {"queue": "vision"}), IDENTITY)
    typo = Submission("one", colour_spec(), settings={"jobs.queue": "visoin"})
    with pytest.raises(InputError, match="no LocalQueue 'visoin'"):
        jobs.check(typo)


def test_a_queue_that_could_never_admit_a_job_is_refused(api: Api, kube: Kube) -> None:
    with pytest.raises(InputError, match=r"'vision'.*Kueue is not installed in this cluster"):
        check(kube, queue="vision")
    api.has_kueue(queue("other"), queue("another"))
    with pytest.raises(InputError, match=r"no LocalQueue 'vision'.*has: another, other"):
        check(kube, queue="vision")
    api.has_kueue(queue("vision", status="False", message="Can't submit:\n no ClusterQueue"))
    with pytest.raises(InputError, match="'vision' admits nothing: Can't submit: no ClusterQueue"):
        check(kube, queue="vision")


def test_without_the_right_to_look_at_queues_that_is_said(api: Api, kube: Kube) -> None:
    api.has_kueue()
    api.objects[QUEUES] = 403
    (note,) = check(kube, queue="vision")
    assert note.startswith("the queue 'vision' is not checked: no permission")


def test_without_a_queue_kueue_is_not_asked(api: Api, kube: Kube) -> None:
    assert check(kube) == []
    assert not any("kueue" in path for path in api.asked)


def test_a_quota_that_others_fill_is_for_later_and_one_that_is_too_small_never(
    api: Api, kube: Kube
) -> None:
    def quota(hard: str, used: str) -> list[dict[str, Any]]:
        status = {"hard": {"pods": hard}, "used": {"pods": used}}
        return [{"metadata": {"name": "team"}, "status": status}]

    api.objects[f"{TEAM}/resourcequotas"] = quota("3", "2")
    with pytest.raises(QuotaFull, match=r"nothing was sent: .*; try again when other jobs") as full:
        check(kube)
    assert full.value.exit_code == TRY_LATER
    api.has_kueue(queue("vision"))
    assert check(kube, queue="vision") == []  # which lets it wait
    api.objects[f"{TEAM}/resourcequotas"] = quota("1", "0")
    for settings in ({}, {"queue": "vision"}):
        with pytest.raises(InputError, match="could never run") as never:
            check(kube, **settings)
        assert never.value.exit_code == 2


def test_a_quota_that_fills_up_meanwhile_is_for_later(api: Api, kube: Kube) -> None:
    message = 'rayjobs.ray.io "one" is forbidden: exceeded quota: team, requested: 1, limited: 9'
    api.refusals[RAYJOBS] = (403, {"message": message})
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    with pytest.raises(QuotaFull, match=r"exceeded quota: team.*; try again when other jobs"):
        jobs.submit(Submission("one", colour_spec()))


def test_an_owner_is_not_guessed_where_the_api_server_is_away(api: Api, kube: Kube) -> None:
    reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    api.refusals[reviews] = (503, {"message": "etcd has no leader"})
    with pytest.raises(ClusterLost, match="etcd has no leader"):
        jobs.owner()
    api.refusals[reviews] = (404, {"message": "of Kubernetes before 1.28"})
    assert KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY).owner().self_declared
    del api.refusals[reviews]
    assert jobs.owner() == Owner("ada", self_declared=False)


def test_what_is_no_kubernetes_is_told_from_one(api: Api, kube: Kube) -> None:
    api.objects[f"{TEAM}/configmaps"] = "<html>Log in to the proxy</html>"
    with pytest.raises(InputError, match=r"is no Kubernetes; .*Log in to the proxy"):
        find_profile(kube)


def test_a_queued_job_says_why_in_kueues_words(api: Api, kube: Kube) -> None:
    labels = {"graft.dev/job": "one", "graft.dev/kind": "finetune"}
    stored = {
        "metadata": {"name": "one", "uid": "abc", "labels": labels},
        "spec": {},
        "status": {"jobDeploymentStatus": "Suspended"},
    }
    api.objects[f"{RAYJOBS}/one"] = stored
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    waits = jobs.find("one")
    assert waits
    assert waits.why == "waits for its queue to admit it"
    api.has_kueue()
    api.objects[WORKLOADS] = [
        {
            "metadata": {"name": "rayjob-one-1"},
            "status": {
                "conditions": [
                    {
                        "type": "QuotaReserved",
                        "status": "False",
                        "message": "insufficient unused quota for nvidia.com/gpu, 4 more needed",
                    }
                ]
            },
        }
    ]
    told = jobs.find("one")
    assert told
    assert told.why == (
        "waits for its queue to admit it: insufficient unused quota for nvidia.com/gpu, "
        "4 more needed"
    )
    assert api.asked[-1] == f"{WORKLOADS}?labelSelector=kueue.x-k8s.io%2Fjob-uid%3Dabc&limit=500"


def pod(job: str, name: str, reason: str = "") -> dict[str, Any]:
    labels = {"graft.dev/job": job, "ray.io/node-type": "worker"}
    condition = {"type": "PodScheduled", "status": "False" if reason else "True", "reason": reason}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [condition | {"message": "0/1 nodes: Insufficient gpu"}]},
    }


def test_jobs_that_hold_what_the_other_needs_say_so(api: Api, kube: Kube) -> None:
    labels = {"graft.dev/job": "one", "graft.dev/kind": "finetune"}
    head = {"template": {"spec": {"containers": [{"env": []}]}}}
    api.objects[f"{RAYJOBS}/one"] = {
        "metadata": {"name": "one", "labels": labels},
        "spec": {"rayClusterSpec": {"headGroupSpec": head, "workerGroupSpecs": [{"replicas": 2}]}},
        "status": {"jobDeploymentStatus": "Initializing"},
    }
    lack = "Unschedulable"
    pods = [pod("one", "one-w1"), pod("one", "one-w2", lack), pod("two", "two-w1")]
    api.objects[f"{TEAM}/pods"] = pods
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    alone = jobs.find("one")
    assert alone
    assert alone.why == "one-w2: 0/1 nodes: Insufficient gpu"  # the other has all that it needs
    pods += [pod("two", "two-w2", lack), pod("three", "three-w1", lack)]
    api.objects[f"{TEAM}/pods"] = pods
    torn = jobs.find("one")
    assert torn
    assert torn.why == (
        "one-w2: 0/1 nodes: Insufficient gpu; two waits, too: without a queue (jobs.queue) each "
        "may hold what the other needs, until one is cancelled"
    )


def test_of_a_job_that_runs_its_own_pods_alone_are_asked_for(api: Api, kube: Kube) -> None:
    head = {"template": {"spec": {"containers": [{"env": []}]}}}
    api.objects[f"{RAYJOBS}/one"] = {
        "metadata": {"name": "one", "labels": {"graft.dev/job": "one"}},
        "spec": {"rayClusterSpec": {"headGroupSpec": head, "workerGroupSpecs": [{"replicas": 2}]}},
        "status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    }
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    api.objects[f"{TEAM}/pods"] = [pod("one", "one-w1"), pod("one", "one-w2")]
    status = jobs.find("one")
    assert status
    assert (status.state, status.why) == ("starting", "its head is gone, another one is made")
    assert api.asked[-1] == f"{TEAM}/pods?labelSelector=graft.dev%2Fjob%3Done&limit=500"
    api.objects[f"{TEAM}/pods"] = 403
    status = jobs.find("one")
    assert status
    assert (status.state, status.why) == ("running", None)


def test_of_several_profiles_one_is_chosen(api: Api, kube: Kube) -> None:
    api.has_profiles(first=PROFILE, second=PROFILE | {"image": "graft:2"})
    with pytest.raises(InputError, match="--profile or GRAFT_PROFILE: first, second"):
        find_profile(kube)
    profile, identity = find_profile(kube, "second")
    assert (profile.image, identity.uid) == ("graft:2", "uid-second")  # no right to look at it
    api.objects[TEAM] = {"metadata": {"uid": "of-namespace"}}
    assert find_profile(kube, "second")[1] == replace(
        identity, uid="of-namespace/second", formerly="uid-second"
    )
    with pytest.raises(InputError, match=r"no profile 'third'.*it has: first, second"):
        find_profile(kube, "third")


def test_a_profile_that_takes_no_jobs_is_for_those_that_were_sent_before(
    api: Api, kube: Kube
) -> None:
    closed = PROFILE | {"takes_jobs": False, "image": "graft:1"}
    api.has_profiles(served=closed, first=PROFILE | {"image": "graft:2"})
    assert find_profile(kube)[0].image == "graft:2"
    api.has_profiles(served=closed)
    profile, identity = find_profile(kube)
    jobs = KubeJobs(kube, profile, identity)
    with pytest.raises(InputError, match=r"takes no jobs \(jobs.enabled is false"):
        jobs.check(Submission("one", colour_spec()))
    api.objects[RAYJOBS] = []
    assert jobs.all() == []


def test_the_environment_may_choose_the_profile_and_an_option_goes_first(
    api: Api, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.has_profiles(first=PROFILE, second=PROFILE | {"store": "s3://second"})
    monkeypatch.setenv("GRAFT_PROFILE", "second")
    assert ClusterOptions().open_target()[1].uri == "s3://second"
    assert ClusterOptions(profile="first").open_target()[1].uri == "s3://bucket"
    monkeypatch.setenv("GRAFT_PROFILE", "third")
    with pytest.raises(InputError, match="no profile 'third'"):
        ClusterOptions().open_target()


def test_what_another_person_sent_meanwhile_is_not_removed(api: Api, kube: Kube) -> None:
    labels = {"graft.dev/job": "one", "graft.dev/release": "graft"}
    ended = {"jobDeploymentStatus": "Failed"}
    stored = {"metadata": {"name": "one", "uid": "abc", "labels": labels}, "spec": {}}
    profile = Profile.model_validate(PROFILE | {"labels": {"graft.dev/release": "graft"}})
    jobs = KubeJobs(kube, profile, IDENTITY)
    api.objects[f"{RAYJOBS}/one"] = stored | {"status": {"jobDeploymentStatus": "Suspended"}}
    with pytest.raises(InputError, match="one has not ended"):
        jobs.remove("one")
    api.objects[f"{RAYJOBS}/one"] = stored | {"status": ended}
    with pytest.raises(InputError, match="another person has one go on"):
        jobs.remove("one")
    assert api.deleted == [{"uid": "abc"}]
    # Its record says that it has ended, and its cluster does not yet: that very object goes.
    runs = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    api.objects[f"{RAYJOBS}/one"] = stored | {"status": runs}
    seen = jobs.find("one")
    api.objects[f"{RAYJOBS}/one"]["metadata"] = stored["metadata"] | {"uid": "another's"}
    with pytest.raises(InputError, match="another person has one go on"):
        jobs.remove("one", over=seen)
    assert api.deleted[1:] == [{"uid": "abc"}]


def test_many_jobs_are_listed_in_pages(api: Api, kube: Kube) -> None:
    api.objects[RAYJOBS] = [
        {
            "metadata": {"name": f"{number}", "labels": {"graft.dev/job": f"{number}"}},
            "spec": {},
            "status": {"jobDeploymentStatus": "Failed"},
        }
        for number in range(1001)
    ]
    jobs = KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY)
    assert [status.job for status in jobs.all()] == [f"{number}" for number in range(1001)]
    asked = [path for path in api.asked if path.startswith(RAYJOBS)]
    assert [path.partition("continue=")[2] for path in asked] == ["", "500", "1000"]


def test_jobs_of_another_release_are_not_this_ones(api: Api, kube: Kube) -> None:
    labels = {"graft.dev/job": "one", "graft.dev/release": "second"}
    api.objects[f"{RAYJOBS}/one"] = {
        "metadata": {"name": "one", "uid": "abc", "labels": labels},
        "spec": {},
        "status": {"jobDeploymentStatus": "Suspended"},
    }
    api.objects[RAYJOBS] = []
    mine = Profile.model_validate(PROFILE | {"labels": {"graft.dev/release": "graft"}})
    assert KubeJobs(kube, mine, IDENTITY).find("one") is None
    assert KubeJobs(kube, Profile.model_validate(PROFILE), IDENTITY).find("one") is not None
    KubeJobs(kube, mine, IDENTITY).all()
    assert "graft.dev%2Frelease%3Dgraft" in api.asked[-1]


def test_a_spec_that_the_image_does_not_know_is_not_sent(kube: Kube) -> None:
    class Newer(Finetune):
        tides: str = added("0.3.0", "low")

    spec = Newer.model_validate(colour_spec().model_dump(by_alias=True) | {"tides": "high"})
    for image, message in ((None, "graft:1 is of Graft 0.2.0"), ("graft:0.1.5", "Graft 0.1.5")):
        profile = PROFILE | {"version": "0.2.0", "allowed_images": ["*"]}
        jobs = KubeJobs(kube, Profile.model_validate(profile), IDENTITY)
        with pytest.raises(InputError, match=re.escape(message)):
            jobs.check(Submission("one", spec, image))
