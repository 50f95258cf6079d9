"""A model on a real local Ray Serve: it answers, or says why not, and leaves nothing behind."""

import json
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from graft.errors import ResourceError, ServingError
from graft.registry import ModelVersion, get_model
from graft.store import Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray Serve's own, of pydantic
    from graft.serving.deployment import serve_model

GRAFT = Path(sys.executable).with_name("graft")


def haproxies() -> set[str]:
    """Process ids of all HAProxies of this user on this machine."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if command[0].endswith(b"/haproxy"):
            found.add(process.name)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_a_served_model_answers_many_at_once(
    model_store: Store, photograph: Callable[..., bytes]
) -> None:
    before = haproxies()
    version = get_model(model_store, "ants-bees")
    files = [photograph(seed) for seed in range(24)]
    with serve_model(model_store, version, port=0) as url:
        assert len(haproxies() - before) == 1  # requests take the fast path
        with httpx.Client(base_url=url) as client, ThreadPoolExecutor(8) as pool:

            def ask(data: bytes) -> httpx.Response:
                return client.post("/v1/models/ants-bees/predict", content=data)

            answers = list(pool.map(ask, files))
            assert {answer.status_code for answer in answers} == {200}
            assert answers[0].json()["model"] == "ants-bees@1"
            assert client.get("/docs").status_code == 200
            refused = client.post("/v1/models/ants-bees/predict", content=bytes(20_000_001))
            assert refused.status_code == 413
            assert "larger than" in refused.json()["error"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert haproxies() <= before


@pytest.mark.slow  # Serve starts and stops once more: 10 seconds
@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_forgot_its_golden_images_takes_no_traffic(
    tmp_path: Path, register_model: Callable[..., ModelVersion]
) -> None:
    store = Store.open(str(tmp_path))
    version = register_model(store, golden_shift=0.5)
    before = haproxies()
    with (
        pytest.raises(ServingError, match=r"ants-bees@1 .* golden image \d of 3 differs"),
        serve_model(store, version, port=0),
    ):
        pytest.fail("it serves")
    assert haproxies() <= before


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_machine_lacks_is_said_at_once(model_store: Store) -> None:
    version = get_model(model_store, "ants-bees")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ResourceError, match=f"127.0.0.1:{port}: Address already in use"),
            serve_model(model_store, version, port=port),
        ):
            pytest.fail("it serves")
    with (
        pytest.raises(ResourceError, match="need 1000, Ray has"),
        serve_model(model_store, version, port=0, replicas=1000),
    ):
        pytest.fail("it serves")


@pytest.fixture
def server(
    store_uri: str, register_model: Callable[..., ModelVersion]
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`graft serve` as users run it, from either kind of store, and its URL."""
    register_model(Store.open(store_uri))
    command = [GRAFT, "serve", "ants-bees", "--port", "0", "--json", "--store", store_uri]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        document = ""
        while not document.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            document += line
        yield process, json.loads(document)["url"]
        process.kill()


@pytest.mark.slow  # a Ray of its own: 20 seconds
def test_the_commands_from_start_to_end(
    server: tuple["subprocess.Popen[str]", str],
    photograph: Callable[..., bytes],
    tmp_path: Path,
    store_uri: str,
) -> None:
    process, url = server
    (tmp_path / "ant.jpg").write_bytes(photograph(1))
    (tmp_path / "text.jpg").write_text("no image")

    def predict(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [GRAFT, "predict", *arguments, "--url", url]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = predict("ants-bees", "ant.jpg", "--json", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["images"]
    assert answer["image"] == "ant.jpg"
    assert answer["model"] == "ants-bees@1"
    assert len(answer["predictions"]) == 2

    done = predict("ants-bees", "ant.jpg", "text.jpg")
    assert done.returncode == 2
    assert "ant.jpg" in done.stdout
    assert done.stderr.startswith("graft: 1 of 2 images refused; text.jpg: the image cannot")

    done = predict("wasps", "ant.jpg")
    assert done.returncode == 2
    assert "no model 'wasps' here" in done.stderr

    # Both ways to stop it, one for each kind of store.
    process.send_signal(signal.SIGTERM if store_uri.startswith("s3://") else signal.SIGINT)
    rest, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert rest == ""
    assert "Traceback" not in messages
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
