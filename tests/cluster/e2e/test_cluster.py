"""The ground that the other scenarios stand on."""

import json

import pytest

from cluster.e2e.cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_node_is_ready_and_kuberay_runs(cluster: Cluster) -> None:
    node = cluster.get("node", cluster.node)
    ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
    assert ready == ["True"]
    for kind in ("rayclusters", "rayjobs", "rayservices"):
        crd = cluster.get("crd", f"{kind}.ray.io")
        assert "v1" in [version["name"] for version in crd["spec"]["versions"] if version["served"]]


def test_ray_job_with_token_auth_succeeds_on_the_image(cluster: Cluster) -> None:
    """A head and a worker, and a driver that sees both."""
    with cluster.namespace("smoke", security="baseline") as namespace:
        cluster.apply(_ray_job("smoke", namespace, cluster.image))
        status = cluster.wait_for("the job", lambda: _ended(cluster, "smoke", namespace), 300)

        def submitter() -> str:
            return cluster.kubectl("logs", "-n", namespace, "-l", "job-name=smoke", "--tail=-1")

        assert status["jobStatus"] == "SUCCEEDED", submitter()
        cluster.wait_for("both nodes in its log", lambda: "'CPU': 3.0" in submitter(), 60)
        assert cluster.find("secrets", namespace), "token auth makes a secret"


def _ended(cluster: Cluster, name: str, namespace: str) -> dict[str, str] | None:
    status = cluster.get("rayjob", name, namespace).get("status", {})
    return status if status.get("jobStatus") in ("SUCCEEDED", "FAILED", "STOPPED") else None


def _ray_job(name: str, namespace: str, image: str) -> dict[str, object]:
    def pod(container: str) -> dict[str, object]:
        return {
            "spec": {
                "containers": [
                    {
                        "name": container,
                        "image": image,
                        "imagePullPolicy": "Never",
                        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
                    }
                ]
            }
        }

    program = (
        "import ray, graft, time; ray.init(); "
        "[time.sleep(1) for _ in range(60) if ray.cluster_resources()['CPU'] < 3]; "
        "print(ray.cluster_resources())"
    )
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "entrypoint": f"python -c {json.dumps(program)}",
            "submissionMode": "K8sJobMode",
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "1"},
                    "template": pod("ray-head"),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": 1,
                        "minReplicas": 1,
                        "maxReplicas": 1,
                        "rayStartParams": {"num-cpus": "2"},
                        "template": pod("ray-worker"),
                    }
                ],
            },
        },
    }
