"""A model on a real local Ray Serve: it answers, or says why not, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import commands
from clients import Clients
from conftest import free_port, start_server
from graft.cluster.local_ray import DEFAULTS
from graft.errors import ResourceError, ServingError
from graft.registry import ModelVersion, get_model, promote
from graft.serving.engines.choice import EngineChoice
from graft.serving.keys import new_key, revoke_key
from graft.serving.predictor import Predictor
from graft.serving.stats import METRICS
from graft.store import Store, read_document

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray Serve's own, of pydantic
    import ray

    from graft.serving.deployment import (
        Access,
        Capacity,
        Following,
        ServedModels,
        following,
        serve_model,
        serve_models,
    )
    from graft.serving.ray_serve import haproxy_environment


PREDICT = "/v1/models/ants-bees/predict"


def haproxies() -> set[str]:
    """Process ids of the HAProxies that have come from this process, also of those left behind."""
    ours = f"GRAFT_CACHE={os.environ['GRAFT_CACHE']}".encode()  # each process of tests has its own
    running = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        if command[0].endswith(b"/haproxy") and ours in environment:
            running.add(process.name)
    return running


@pytest.mark.slow  # Serve starts and stops
@pytest.mark.usefixtures("ray_cluster")
def test_served_models_answer_many_at_once_follow_their_alias_and_stop(
    promotable: Store, photograph: Callable[..., bytes]
) -> None:
    before = haproxies()
    promote(promotable, "ants-bees@1", "champion")
    files = [photograph(seed) for seed in range(24)]
    models = ServedModels(("ants-bees@champion", "cats@1"))
    with serve_models(promotable, models, port=0) as url:
        # Requests take the fast path; while it reads its settings again, it runs twice.
        wait_for(lambda: len(haproxies() - before) == 1)
        with httpx.Client(base_url=url) as client, ThreadPoolExecutor(8) as pool:

            def ask(data: bytes) -> httpx.Response:
                return client.post(PREDICT, content=data)

            answers = list(pool.map(ask, files))
            assert {answer.status_code for answer in answers} == {200}
            assert answers[0].json()["model"] == "ants-bees@1"
            answer = client.post("/v1/models/cats/predict", content=files[0])
            assert answer.json()["model"] == "cats@1"
            assert client.get("/docs").status_code == 200
            refused = client.post(PREDICT, content=bytes(20_000_001))
            assert refused.status_code == 413
            assert "larger than" in refused.json()["error"]
        with Clients(httpx.URL(url).port or 80, PREDICT, files[:1]) as clients:
            promote(promotable, "ants-bees@2", "champion")
            wait_for(lambda: health(url)["model"] == "ants-bees@2, cats@1")
        assert clients.failures == []
        assert clients.answers
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert haproxies() <= before


@pytest.mark.slow  # Serve starts and stops once more: 10 seconds
@pytest.mark.usefixtures("ray_cluster")
def test_a_served_model_wants_a_key_and_says_what_it_does_by_the_engine_that_won(
    promotable: Store, photograph: Callable[..., bytes], tmp_path: Path
) -> None:
    file, log = tmp_path / "keys.json", tmp_path / "access.log"
    shop, monitor = new_key(file, "shop", ("predict",)), new_key(file, "monitor", ("admin",))
    access = Access(str(file), str(log))
    version = get_model(promotable, "ants-bees@1")
    predict, stats = PREDICT, "/v1/models/ants-bees/stats"
    with (
        serve_model(promotable, version, port=0, access=access, engine="auto") as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):

        def ask(key: str) -> httpx.Response:
            headers = {"X-API-Key": key, "X-Request-Id": f"order-{key[-4:]}"}
            return client.post(predict, content=photograph(1), headers=headers)

        answer = ask(shop)
        assert answer.status_code == 200
        assert answer.headers.get_list("X-Request-Id") == [f"order-{shop[-4:]}"]
        assert client.post(predict, content=photograph(1)).status_code == 401
        model = client.get("/v1/models/ants-bees", headers={"X-API-Key": shop}).json()
        (choice,) = promotable.scan(f"{version.folder}/engines/")
        record = read_document(promotable, choice[0], EngineChoice)
        assert (model["engine"], model["engine_reason"]) == (record.engine, record.reason)
        assert record.images_per_second.keys() == {"torch", "onnx"}

        def logged() -> list[tuple[int, str | None]]:
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            return [(line["status"], line["key"]) for line in lines]

        # What has been sent is counted, and has its line, a moment later.
        expected: list[tuple[int, str | None]] = [(200, "shop"), (401, None), (200, "shop")]
        wait_for(lambda: logged() == expected)
        counted = client.get(stats, headers={"X-API-Key": monitor}).json()
        assert counted["status"] == {"200": 2, "401": 1}
        expected.append((200, "monitor"))
        wait_for(lambda: logged() == expected)
        revoke_key(file, "shop")
        wait_for(lambda: ask(shop).status_code == 401)
        assert client.get("/v1/models", headers={"X-API-Key": monitor}).status_code == 403
        wait_for(lambda: set(METRICS) <= exported())


def exported() -> set[str]:
    """The metrics of ours that Ray's exporter has."""
    (node,) = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    try:
        page = httpx.get(address, trust_env=False).text
    except httpx.TransportError:
        return set()
    return set(re.findall(r"^(ray_graft_serving_\w+)\{", page, re.MULTILINE))


@pytest.mark.slow  # Serve starts and stops once more: 10 seconds
@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_forgot_its_golden_images_takes_no_traffic(
    promotable: Store,
) -> None:
    version = get_model(promotable, "ants-bees@3")
    before = haproxies()
    with (
        pytest.raises(ServingError, match=r"ants-bees@3 .* golden image \d of 3 differs"),
        serve_model(promotable, version, port=0),
    ):
        pytest.fail("it serves")
    assert haproxies() <= before


@pytest.mark.slow  # three servers
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("taken", [1, 1000], ids=["once", "always"])
def test_a_port_that_another_process_takes_meanwhile(
    taken: int, model_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy ends at once: it is started on other ports, and what keeps it from that is said."""
    before = haproxies()
    version = get_model(model_store, "ants-bees")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        looks = 0

        def look(host: str, port: int) -> int:
            nonlocal looks
            looks += 1
            return other.getsockname()[1] if looks <= taken else free_port()

        monkeypatch.setattr("graft.serving.ray_serve.free_port", look)
        if taken == 1:
            with serve_model(model_store, version, port=0) as url:
                assert httpx.get(f"{url}/healthz").is_success
                assert httpx.URL(url).port != other.getsockname()[1]
        else:
            with (
                pytest.raises(ServingError, match=r"HAProxy does not start: .*bind"),
                serve_model(model_store, version, port=0),
            ):
                pytest.fail("it serves")
    assert haproxies() <= before


@pytest.mark.slow  # the only one here for which a fast run would start a Ray
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
        serve_model(model_store, version, port=0, capacity=Capacity(1000)),
    ):
        pytest.fail("it serves")


@pytest.fixture
def server(
    store_uri: str, register_model: Callable[..., ModelVersion]
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`graft serve` as users run it, from either kind of store, and its URL."""
    register_model(Store.open(store_uri))
    words = ["serve", "ants-bees", "--port", "0", "--json", "--store", store_uri]
    with subprocess.Popen(
        [commands.GRAFT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        document = ""
        while not document.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            document += line
        yield process, json.loads(document)["url"]
        process.kill()


@pytest.mark.nightly  # each with a Ray of its own; README's main job serves, too
@pytest.mark.parametrize("store_uri", ["s3", "directory"], indirect=True)
def test_the_commands_from_start_to_end(
    server: tuple["subprocess.Popen[str]", str],
    photograph: Callable[..., bytes],
    tmp_path: Path,
    store_uri: str,
) -> None:
    process, url = server
    (tmp_path / "ant.jpg").write_bytes(photograph(1))
    (tmp_path / "text.jpg").write_text("no image")

    def predict(*arguments: str) -> commands.Done:
        return commands.graft("predict", *arguments, "--url", url, cwd=tmp_path)

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

    # Both ways to stop it, one for each kind of store; the README's server gets the other one.
    process.send_signal(signal.SIGTERM if store_uri.startswith("s3://") else signal.SIGINT)
    rest, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert rest == ""
    assert "Traceback" not in messages
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_what_a_rayservice_passes_is_checked() -> None:
    models = [{"name": "ants-bees"}, {"name": "cats", "alias": "candidate"}]
    arguments = {"store": "s3://bucket", "models": models, "keys": "/etc/graft/keys/keys.json"}
    assert following(Following.model_validate(arguments)).__class__.__name__ == "Application"
    for wrong in (
        {"stores": "s3://bucket"},
        {"models": []},
        {"models": [{"name": "cats", "alias": "3"}]},
        {"models": [{"name": "cats", "alias": "Champion"}]},
        {"models": [{"name": "ants/bees"}]},
        {"models": [{"name": "cats"}, {"name": "cats", "alias": "candidate"}]},
        {"engine": "tensorrt"},
        {"tails_gb": 0},
        {"replicas": 0},
        {"poll_s": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Following.model_validate(arguments | wrong)
    for wrong in (arguments | {"no_auth": True}, arguments | {"keys": None}):
        with pytest.raises(ValueError, match="expected either `keys`, the path of a file"):
            Following.model_validate(wrong)


def test_a_version_is_nothing_to_follow(model_store: Store) -> None:
    done = commands.main("serve", "ants-bees@1", "--follow", "--store", model_store.uri)
    assert done.returncode == 2
    assert done.stderr == (
        "graft: --follow ants-bees@1: a version never moves; "
        "name an alias, as in ants-bees@champion\n"
    )


def wait_for(
    condition: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None
) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process is None or process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def health(url: str) -> dict[str, str | None]:
    try:
        answer = httpx.get(f"{url}/healthz", timeout=5, trust_env=False, verify=False)
        document: dict[str, str | None] = answer.json() if answer.is_success else {}
    except httpx.TransportError:
        return {}
    return document


@pytest.fixture(scope="module")
def three_versions(
    tmp_path_factory: pytest.TempPathFactory, register_model: Callable[..., ModelVersion]
) -> Path:
    """A store with versions 1 and 2, unlike each other, and 3, whose golden images differ.

    And a model `cats` on the trunk of version 1.
    """
    folder = tmp_path_factory.mktemp("deployment") / "store"
    store = Store.open(str(folder))
    register_model(store)
    register_model(store, run="run-2", seed=1)
    register_model(store, run="run-3", seed=2, golden_shift=0.5)
    register_model(store, name="cats", run="run-cats", seed=3, trunk_seed=0)
    return folder


@pytest.fixture
def promotable(three_versions: Path, tmp_path: Path) -> Store:
    """A copy of it: no version has an alias."""
    return Store.open(str(shutil.copytree(three_versions, tmp_path / "store")))


@pytest.fixture
def rayservice(
    promotable: Store, tmp_path: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """What KubeRay does with a RayService's `serveConfigV2`, in a Ray of its own.

    There is no champion yet: its replicas have said so.
    """
    short = tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)
    log = tmp_path / "serve.log"

    def start() -> tuple["subprocess.Popen[bytes]", str]:
        port = free_port()
        arguments = {"store": promotable.uri, "models": [{"name": "ants-bees"}]}
        arguments |= {"replicas": 2, "poll_s": 0.2, "no_auth": True, "engine": "torch"}
        application = {
            "name": "served",
            "route_prefix": "/",
            "import_path": "graft.serving.deployment:following",
            "args": arguments,
        }
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [application],
        }
        (tmp_path / "serve.yaml").write_text(json.dumps(config))  # JSON is YAML
        environment = os.environ | DEFAULTS | haproxy_environment(short.name)
        command = [commands.GRAFT.with_name("serve"), "run", "--address", "local", "serve.yaml"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=out, stderr=out
            )
        return process, f"http://127.0.0.1:{port}"

    def waits(url: str) -> bool:
        return "cannot answer yet: model 'ants-bees' has no" in log.read_text()

    with short:
        process, url = start_server(start, waits)
        with process:
            yield process, url
            process.send_signal(signal.SIGINT)
            try:
                process.wait(120)
            finally:
                process.kill()


@pytest.mark.nightly  # a Ray of its own; on every commit e2e's `service` shows it
def test_a_rayservice_follows_promotions_without_a_failed_request(
    promotable: Store,
    rayservice: tuple["subprocess.Popen[bytes]", str],
    photograph: Callable[..., bytes],
) -> None:
    process, url = rayservice
    files = [photograph(seed) for seed in range(4)]
    expected = {}
    for number in (1, 2):
        alone = Predictor.load(promotable, get_model(promotable, f"ants-bees@{number}"))
        rows = alone.predict([alone.prepare(data) for data in files]).probabilities
        expected[alone.version.ref] = [
            dict(zip(alone.version.classes, row.tolist(), strict=True)) for row in rows
        ]

    assert health(url) == {}
    promote(promotable, "ants-bees@1", "champion")
    wait_for(lambda: health(url).get("model") == "ants-bees@1", process)

    with Clients(httpx.URL(url).port or 80, PREDICT, files) as clients:

        def all_say(**expected: str) -> bool:
            return all(
                expected.items() <= health(url).items()
                for _ in range(20)  # both replicas
            )

        for number in (2, 1, 2):
            wait_for(lambda: len(clients.answers) > 20, process)
            promote(promotable, f"ants-bees@{number}", "champion")
            ref = f"ants-bees@{number}"
            wait_for(lambda ref=ref: all_say(model=ref), process)
        promote(promotable, "ants-bees@3", "champion")
        wait_for(lambda: "golden image" in (health(url).get("refused") or ""), process)
        assert all_say(model="ants-bees@2")

    assert clients.failures == []
    bodies = [(answer.image, json.loads(answer.body)) for answer in clients.answers]
    for number, body in bodies:
        answered = {each["class"]: each["probability"] for each in body["predictions"]}
        assert answered == pytest.approx(expected[body["model"]][number], rel=1e-4)
    assert {body["model"] for _, body in bodies} == set(expected)
    assert {body["model"] for _, body in bodies[-20:]} == {"ants-bees@2"}
