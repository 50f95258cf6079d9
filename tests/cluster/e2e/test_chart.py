"""The chart on a real cluster: installed, tested, upgraded, uninstalled."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.e2e.asking import an_image, asked_steadily, served
from cluster.e2e.cluster import Cluster
from cluster.e2e.team import CHART, ROOT, Team, everything, install, person, secret, values

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.mark.control_plane
def test_chart_is_installed_upgraded_and_uninstalled_with_nothing_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.namespace("chart") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        said = install(cluster, namespace, tmp_path)
        assert "graft submit" in said
        install(cluster, namespace, tmp_path, jobs__retries=5)
        profile = cluster.find("configmaps", namespace, "graft.dev/profile=true")
        assert "retries: 5" in profile[0]["data"]["profile.yaml"]
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)


@pytest.mark.control_plane
def test_helm_changes_what_kuberay_has_written_back(cluster: Cluster, tmp_path: Path) -> None:
    """Helm applies on the server, which refuses it the fields that others have changed."""
    with cluster.namespace("again") as namespace:
        secret(cluster, namespace)
        serving: dict[str, Any] = {"enabled": True, "model": "photos", "noAuth": True}
        serving["cpusPerReplica"] = 2
        pod = {
            "cpu": 0.5,
            "memory": "4096Mi",
            "sharedMemory": "1500M",
            "cache": "2Gi",
            "tmp": "1Gi",
        }
        install(cluster, namespace, tmp_path, serving=serving, classes={"cpu": pod})

        def adopted() -> dict[str, Any] | None:
            found = cluster.get("rayservice", "graft", namespace)
            return found if found["metadata"].get("finalizers") else None

        service = cluster.wait_for("KubeRay has taken it up", adopted)
        owned = [
            one["fieldsV1"].get("f:spec")
            for one in cluster.managed_fields("rayservice", "graft", namespace)
            if one["manager"] == "kuberay-operator" and "subresource" not in one
        ]
        assert owned, "the operator has written it back"
        assert owned == [None] * len(owned), json.dumps(service["spec"])
        more = serving | {"cpusPerReplica": 1, "replicas": 3}
        install(cluster, namespace, tmp_path, serving=more, classes={"cpu": pod | {"cpu": "1"}})


@pytest.mark.control_plane
def test_two_releases_in_a_namespace(team: Team, tmp_path: Path) -> None:
    """One of them has jobs, or people choose; both are served by one operator."""
    cluster = team.cluster
    with cluster.namespace("two") as namespace:
        secret(cluster, namespace)
        install(cluster, namespace, tmp_path)
        file = tmp_path / "second.json"
        second = ("upgrade", "--install", "second", str(CHART), "-n", namespace, "-f", str(file))

        def submit(**environment: str) -> "subprocess.CompletedProcess[str]":
            words = ("submit", str(team.spec), "--dry-run", "--json", "--namespace", namespace)
            return cluster.graft(*words, **environment)

        def account(**environment: str) -> str:
            manifest = json.loads(submit(**environment).stdout)
            head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
            return str(head["serviceAccountName"])

        models = [{"name": "photos", "route": "/"}, {"name": "ants", "replicas": {"min": 1}}]
        serving = {"enabled": True, "noAuth": True, "models": models}
        file.write_text(values(cluster, jobs__enabled=False, serving=serving))
        cluster.helm(*second)
        assert account() == "graft"
        file.write_text(values(cluster, serving=serving))
        cluster.helm(*second)
        assert "--profile or GRAFT_PROFILE: graft-profile, graft-second-profile" in submit().stderr
        assert account(GRAFT_PROFILE="graft-second-profile") == "graft-second"


@pytest.mark.control_plane
def test_a_job_is_of_the_namespace_that_it_was_sent_to_and_may_be_taken_over(
    team: Team, tmp_path: Path
) -> None:
    """Both use one store; before the first attempt the store alone knows whose it is."""
    cluster = team.cluster
    with cluster.namespace("other") as namespace:
        secret(cluster, namespace)
        install(cluster, namespace, tmp_path)
        kubeconfig = person(cluster, namespace, "ada", tmp_path)
        other = dataclasses.replace(team, namespace=namespace, kubeconfig=kubeconfig)
        job = team.new_id("bound")
        assert team.graft("submit", str(team.spec), "--id", job).returncode == 0
        assert other.job(job)["state"] == "starting"
        for words in (["cancel", job], ["rm", job], ["resume", job]):
            refused = other.graft("jobs", *words)
            assert refused.returncode == 2
            assert f"{job} was sent to namespace {team.namespace}" in refused.stderr
        assert "--take-over" in other.refused("--id", job)
        taken = other.graft("jobs", "resume", job, "--take-over")
        assert taken.returncode == 0, taken.stderr
        refused = team.graft("jobs", "cancel", job)
        assert f"{job} was sent to namespace {namespace}" in refused.stderr
        assert team.graft("jobs", "rm", job).returncode == 0
        cluster.wait_for("its first RayJob goes", lambda: not team.objects(job), 120)
        # Whose it is does not hang on the chart's objects.
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        install(cluster, namespace, tmp_path)
        assert other.graft("jobs", "cancel", job).returncode == 0


@pytest.mark.control_plane
def test_where_jobs_are_switched_off_those_that_were_sent_stay(team: Team, tmp_path: Path) -> None:
    cluster = team.cluster
    with cluster.namespace("closing") as namespace:
        secret(cluster, namespace)
        install(cluster, namespace, tmp_path)
        kubeconfig = person(cluster, namespace, "ada", tmp_path)
        here = dataclasses.replace(team, namespace=namespace, kubeconfig=kubeconfig)
        job = here.new_id("closing")
        assert here.graft("submit", str(here.spec), "--id", job).returncode == 0
        install(cluster, namespace, tmp_path, jobs__enabled=False)
        policies = cluster.find("networkpolicies", namespace)
        assert "graft-job" in {one["metadata"]["name"] for one in policies}
        assert here.job(job)["state"] == "starting"
        assert "takes no jobs (jobs.enabled is false" in here.refused()
        assert here.graft("jobs", "cancel", job).returncode == 0


def test_charts_own_test_passes_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.namespace("test") as namespace:
        secret(cluster, namespace)
        before = everything(cluster, namespace)
        install(cluster, namespace, tmp_path)
        print(cluster.helm("test", "graft", "-n", namespace))
        cluster.helm("uninstall", "graft", "-n", namespace, "--wait")
        cluster.wait_for("nothing left", lambda: everything(cluster, namespace) == before)


FIRST = "48723a8"
"""The commit whose chart is the oldest that a release has to follow."""


def first_chart(folder: Path) -> Path:
    packed = subprocess.run(
        ["git", "-C", ROOT, "archive", FIRST, "helm/graft"], capture_output=True
    )
    if packed.returncode:
        pytest.skip(f"this clone's history does not go back to {FIRST}")
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    chart = folder / "helm" / "graft"
    # Its image, which is not built here, answered everybody; ours has to be told.
    service = chart / "templates" / "rayservice.yaml"
    model = "          model: {{ .model | quote }}\n"
    text = service.read_text()
    assert model in text
    service.write_text(text.replace(model, f"{model}          no_auth: true\n"))
    return chart


def test_upgrade_from_the_first_chart_while_a_job_runs_and_a_model_is_served(
    team: Team, tmp_path: Path
) -> None:
    cluster = team.cluster
    champion = team.champion("photos")
    serving = {"enabled": True, "model": "photos", "replicas": 1, "pollSeconds": 2}
    pod = {"cpu": "100m", "memory": "3Gi", "cache": "2Gi"}
    cpu = pod | {"sharedMemory": "256Mi"}
    with cluster.namespace("upgrade") as namespace:
        secret(cluster, namespace)
        first = first_chart(tmp_path)
        old: dict[str, Any] = {"head": pod, "classes": {"cpu": cpu}, "serving": serving}
        install(cluster, namespace, tmp_path, chart=first, **old)
        kubeconfig = person(cluster, namespace, "ada", tmp_path)
        here = dataclasses.replace(team, namespace=namespace, kubeconfig=kubeconfig)
        url = served(cluster, namespace)
        job = here.new_id("upgraded")
        long = ("--set", "train.epochs=60", "--set", "cache=off", "--set", "register=null")
        words = ("submit", str(here.spec), "--id", job, *long, "--set", "scaling.workers=1")
        assert "before releases were told apart" in here.refused()
        (profile,) = cluster.find("configmaps", namespace, "graft.dev/profile=true")
        told = {"profile.yaml": "version: 0.1.0rc0\n" + profile["data"]["profile.yaml"]}
        name = profile["metadata"]["name"]
        patch = json.dumps({"data": told})
        cluster.kubectl("patch", "configmap", name, "-n", namespace, "--type=merge", "-p", patch)
        sent = here.graft(*words)
        assert sent.returncode == 0, sent.stderr
        here.running(job, epoch=2)
        with asked_steadily(url, "photos", an_image(team, tmp_path).read_bytes()) as seen:
            less = {"head__memory": "3Gi", "classes": {"cpu": cpu | {"tmp": "1Gi"}}}
            # KubeRay has changed fields of what the first chart made, which later ones leave.
            # Everybody may ask, and torch answers, as with the first chart.
            new = {"serving": serving | {"noAuth": True, "engine": "torch"}}
            install(cluster, namespace, tmp_path, "--force-conflicts", **new, **less)
            (profile,) = cluster.find("configmaps", namespace, "graft.dev/profile=true")
            assert "min_client" in profile["data"]["profile.yaml"]

            def replaced() -> bool:
                (service,) = cluster.find("rayservices", namespace)
                pods = cluster.find("pods", namespace, "graft.dev/role=serving")
                ready = {one["type"]: one["status"] for one in service["status"]["conditions"]}
                return ready.get("UpgradeInProgress") == "False" and len(pods) == 2

            cluster.wait_for("the new service alone", replaced, 600)
            so_far = len(seen)
            cluster.wait_for("more answers", lambda: len(seen) > so_far + 20, 60)
        failed = [one for one in seen if one[0] != 200]
        print(f"{len(seen)} requests during the upgrade, {len(failed)} failed: {failed[:5]}")
        assert failed == []
        assert {version for _, version in seen} == {champion}
        waited = here.graft("jobs", "wait", job)
        assert waited.returncode == 0, waited.stderr
        ended = here.job(job)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1)
        again = here.graft("submit", str(here.spec), "--dry-run")
        assert again.returncode == 0, again.stderr
