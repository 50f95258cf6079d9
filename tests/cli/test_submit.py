"""`graft submit` and `graft jobs`, the real commands: without a cluster, and to a running Ray.

To a real Kubernetes: tests/cluster/e2e.
"""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import kube_config

import commands
from colours import colour_spec, draw_colours
from graft.cluster.job_attempts import begin_attempt
from graft.cluster.job_logs import put_log
from graft.cluster.job_records import submit_job
from graft.data.importing import import_dataset
from graft.spec import dump_job
from graft.store import Store

BIN = commands.GRAFT.parent
TOKEN = "a-token-of-this-test-alone"


def graft(*arguments: str, **environment: str) -> commands.Done:
    environment = {"KUBECONFIG": "/nonexistent/config"} | environment
    with pytest.MonkeyPatch.context() as patch:
        # Kubernetes' client has read it when it was imported.
        patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", environment["KUBECONFIG"])
        return commands.main(*arguments, env=environment)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(draw_colours(tmp_path / "images")), "colours", test_fraction=0)
    return store


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(dump_job(colour_spec(train__epochs=1)))
    return str(path)


def kubeconfig(path: Path, server: str) -> Path:
    path.write_text(
        f"""apiVersion: v1
kind: Config
current-context: one
contexts: [{{name: one, context: {{cluster: one, user: one}}}}]
clusters: [{{name: one, cluster: {{server: "{server}"}}}}]
users: [{{name: one, user: {{token: x}}}}]
"""
    )
    return path


def test_without_a_kubeconfig(spec: str) -> None:
    done = graft("submit", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no usable kubeconfig" in done.stderr
    assert "set KUBECONFIG or --kube-context, or name a running Ray cluster" in done.stderr


def test_a_context_that_is_not_there(spec: str, tmp_path: Path, nobody: str) -> None:
    config = kubeconfig(tmp_path / "config", f"http://{nobody}")
    done = graft("submit", spec, "--kube-context", "two", KUBECONFIG=str(config))
    assert done.returncode == 2
    assert "no context 'two' in the kubeconfig; it has: one" in done.stderr


def test_a_context_may_be_chosen_where_none_is_current(
    spec: str, tmp_path: Path, nobody: str
) -> None:
    config = kubeconfig(tmp_path / "config", f"http://{nobody}")
    config.write_text(config.read_text().replace("current-context: one\n", ""))
    done = graft("submit", spec, KUBECONFIG=str(config))
    assert done.returncode == 2
    assert "no current context; choose one with --kube-context: one" in done.stderr
    chosen = graft("submit", spec, "--kube-context", "one", KUBECONFIG=str(config))
    assert "no answer from Kubernetes" in chosen.stderr


@pytest.mark.slow  # ten CPU seconds of waiting
def test_a_cluster_that_does_not_answer_is_known_at_its_second_silence(
    spec: str, tmp_path: Path
) -> None:
    asked = 0

    def hang_up() -> None:
        nonlocal asked
        while True:
            with server.accept()[0] as connection:
                if not connection.recv(1):
                    return
                asked += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        thread = threading.Thread(target=hang_up)
        thread.start()
        config = kubeconfig(tmp_path / "config", f"http://127.0.0.1:{address[1]}")
        done = commands.graft("submit", spec, env={"KUBECONFIG": str(config)})
        socket.create_connection(address).close()
        thread.join()
    assert done.returncode == 75
    assert "no answer from Kubernetes at http://127.0.0.1" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert asked == 2


def test_a_spec_is_checked_before_any_cluster(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(dump_job(colour_spec()) + "lerning: 1\n")
    done = graft("submit", str(path))
    assert done.returncode == 2
    assert "unknown key 'lerning'" in done.stderr


def test_jobs_of_the_store_when_there_is_no_cluster(store: Store) -> None:
    submit_job(store, "one", "kind: finetune\n")
    attempt = begin_attempt(store, "one", "finetune")
    put_log(store, "one", "driver@session_1@head", 0, b"epoch 1\n")
    put_log(store, "one", "worker-1.out@session_1@head", 0, b"hello\n")
    attempt.fail("a worker died", final=True)

    listed = graft("jobs", "ls", "--json", "--store", store.uri)
    assert "from the store alone, which may be behind: no usable kubeconfig" in listed.stderr
    (job,) = json.loads(listed.stdout)["jobs"]
    assert (job["job"], job["state"], job["why"]) == ("one", "failed", "a worker died")

    assert graft("jobs", "logs", "one", "-f", "--store", store.uri).stdout == "epoch 1\n"
    other = graft(
        "jobs", "logs", "one", "--source", "worker-1.out@session_1@head", "--store", store.uri
    )
    assert other.stdout == "hello\n"
    shown = graft("jobs", "show", "one", "--store", store.uri)
    assert "a worker died" in shown.stdout
    waited = graft("jobs", "wait", "one", "--store", store.uri)
    assert waited.returncode == 1
    assert "one failed: a worker died; what it said: graft jobs logs one" in waited.stderr
    late = graft("jobs", "cancel", "one", "--store", store.uri)
    assert late.returncode == 2
    assert "to cancel one takes the cluster that it runs on" in late.stderr
    absent = graft("jobs", "show", "on", "--store", store.uri)
    assert absent.returncode == 2
    assert "no job 'on' in" in absent.stderr
    assert "did you mean 'one'" in absent.stderr


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of its own, with its Jobs API and a token."""
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [BIN / "ray", "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", "--dashboard-port=0"]
    command += ["--dashboard-agent-listen-port=0"]  # else it is the same for all Rays of a machine
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as ray:
        assert ray.stdout
        said = ""
        while not (address := re.search(r"RAY_API_SERVER_ADDRESS='(http://\S+)'", said)):
            line = ray.stdout.readline()
            assert line, f"Ray has ended: {said}"
            said += line
        yield address[1]
        os.killpg(ray.pid, signal.SIGKILL)  # told to end, it would wait for half a minute


def on_ray(*arguments: str, token: str = TOKEN) -> commands.Done:
    return commands.graft(*arguments, env={"RAY_AUTH_TOKEN": token})


@pytest.mark.slow
def test_a_job_on_a_running_ray(ray_address: str, store: Store, spec: str) -> None:
    where = ("--address", ray_address, "--store", store.uri)
    closed = on_ray("submit", spec, *where, token="wrong")
    assert closed.returncode == 2
    assert "wants its token: set RAY_AUTH_TOKEN" in closed.stderr

    preview = on_ray("submit", spec, *where, "--id", "one", "--dry-run")
    assert json.loads(preview.stdout)["submission_id"] == "one"
    done = on_ray("submit", spec, *where, "--id", "one", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["state"], status["model"]) == ("succeeded", "colours@1")
    assert "epoch 1/1" in done.stderr  # its log

    again = on_ray("submit", spec, *where, "--id", "one")
    assert again.returncode == 0
    assert "one was submitted before" in again.stderr
    other = on_ray("submit", spec, *where, "--id", "one", "--set", "train.epochs=2")
    assert other.returncode == 2
    assert "there is a job 'one' with another spec; choose another --id" in other.stderr


@pytest.mark.slow
def test_a_job_that_fails_on_a_running_ray(ray_address: str, store: Store, spec: str) -> None:
    where = ("--address", ray_address, "--store", store.uri)
    bad = ("--set", "backbone.freeze=17")
    done = on_ray("submit", spec, *where, "--id", "bad", *bad, "--wait")
    assert done.returncode == 1
    assert "bad failed: backbone.freeze" in done.stderr
    listed = on_ray("jobs", "ls", "--json", *where)
    states = {job["job"]: job["state"] for job in json.loads(listed.stdout)["jobs"]}
    assert states["bad"] == "failed"
    # Ray may not have seen the end that the job has recorded; nothing of it stays all the same.
    gone = on_ray("jobs", "rm", "bad", *where)
    assert gone.returncode == 0, gone.stderr
