"""`graft predict` against the real app: answers, refusals, and servers that are none."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

import commands
from graft.data.file_kinds import SUPPORTED
from graft.registry import get_model
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.keys import KeyRing, new_key
from graft.serving.predictor import Predictor
from graft.store import Store

PREDICTION = {"class": "ants", "probability": 1.0}


@pytest.fixture(scope="module")
def url(model_store: Store) -> Iterator[str]:
    predictor = Predictor.load(model_store, get_model(model_store, "ants-bees"))
    with running(create_app(Current(predictor))) as url:
        yield url


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def folder(tmp_path: Path, photograph: Callable[..., bytes]) -> Path:
    (tmp_path / "ant.jpg").write_bytes(photograph(1))
    (tmp_path / "bee.png").write_bytes(photograph(2, "PNG"))
    (tmp_path / "text.jpg").write_text("no image")
    return tmp_path


def predict(folder: Path, *arguments: str) -> commands.Done:
    return commands.main("predict", *arguments, cwd=folder)


def test_answers_come_in_the_order_of_the_images(url: str, folder: Path) -> None:
    images = ["bee.png", "ant.jpg", "bee.png"]
    words = ("predict", "ants-bees", *images, "--url", url, "--json", "--top-k", "2")
    done = commands.graft(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["images"]
    assert [answer["image"] for answer in answers] == images
    assert {answer["model"] for answer in answers} == {"ants-bees@1"}
    assert [len(answer["predictions"]) for answer in answers] == [2, 2, 2]


def test_a_refused_image_is_named_and_the_others_are_answered(url: str, folder: Path) -> None:
    done = predict(folder, "ants-bees", "ant.jpg", "text.jpg", "--url", url)
    assert done.returncode == 2
    assert "ant.jpg" in done.stdout
    assert done.stderr == (
        "graft: 1 of 2 images refused; text.jpg: the image cannot be used: "
        f"not an image; supported: {SUPPORTED}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["ants-bees", "none.jpg"], 2, "none.jpg: no such file"),
        (["ants-bees", "s3://b/a.jpg"], 2, "s3://b/a.jpg: only local files are sent; download it"),
        (["wasps", "ant.jpg", "--url", "{url}"], 2, "no model 'wasps' here"),
        (["ants-bees", "ant.jpg", "--url", "localhost"], 2, "expected http:// or https://"),
        (["ants-bees", "ant.jpg", "--url", "http://{nobody}"], 75, "is `graft serve` running"),
        (["ants-bees", "ant.jpg", "--url", "{url}/docs"], 2, "Not Found"),
    ],
)
def test_what_goes_wrong_is_one_line(
    url: str, nobody: str, folder: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    done = predict(folder, *(one.format(url=url, nobody=nobody) for one in arguments))
    assert done.returncode == exit_code
    assert done.stderr.startswith("graft: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_server_that_has_too_much_to_do_is_asked_again_later(folder: Path) -> None:
    busy = FastAPI()

    @busy.post("/v1/models/{name}/predict")
    def predict_later(name: str) -> Response:
        return Response("Request dropped", 503)

    with running(busy) as url:
        done = predict(folder, "ants-bees", "ant.jpg", "--url", url)
    assert done.returncode == 75
    assert "HTTP 503: Request dropped; is that `graft serve`?; try again later" in done.stderr


def test_a_key_goes_with_every_request_and_a_refusal_is_passed_on(
    model_store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFT_API_KEY", raising=False)
    key = new_key(folder / "keys.json", "shop", ("predict",))
    other = new_key(folder / "keys.json", "monitor", ("admin",))
    predictor = Predictor.load(model_store, get_model(model_store, "ants-bees"))
    app = create_app(Current(predictor), ring=KeyRing(folder / "keys.json"))
    with running(app) as url:

        def ask(*options: str, **env: str) -> commands.Done:
            words = ("predict", "ants-bees", "ant.jpg", "--url", url, *options)
            return commands.main(*words, cwd=folder, env=env)

        assert ask("--key", key).returncode == 0
        assert ask(GRAFT_API_KEY=key).returncode == 0
        for done, reason in (
            (ask(), "a key is needed"),
            (ask("--key", "graft_"), "the key is not valid"),
            (ask("--key", other), "the key 'monitor' is for admin"),
            (ask("--key", "a\nb"), "expected what `graft keys new` printed"),
        ):
            assert done.returncode == 2
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_is_asked_again_then(folder: Path, status: int) -> None:
    busy = FastAPI()
    asked: list[int] = []

    @busy.post("/v1/models/{name}/predict")
    def predict_later(name: str) -> Response:
        asked.append(status)
        if len(asked) == 3:
            return JSONResponse({"model": "ants-bees@1", "predictions": [PREDICTION]})
        return JSONResponse({"error": "full"}, status, {"Retry-After": "0"})

    with running(busy) as url:
        done = predict(folder, "ants-bees", "ant.jpg", "--url", url, "--json")
        assert json.loads(done.stdout)["images"][0]["model"] == "ants-bees@1"
    assert len(asked) == 3


@pytest.mark.parametrize("later", ["3600", "soon"])
def test_nobody_waits_longer_than_a_minute(folder: Path, later: str) -> None:
    busy = FastAPI()

    @busy.post("/v1/models/{name}/predict")
    def predict_later(name: str) -> Response:
        return JSONResponse({"error": "full"}, 429, {"Retry-After": later})

    with running(busy) as url:
        done = predict(folder, "ants-bees", "ant.jpg", "--url", url)
    assert done.returncode == 75
    assert "HTTP 429: full; try again later" in done.stderr


def test_what_a_failing_server_said_is_passed_on(model_store: Store, folder: Path) -> None:
    predictor = Predictor.load(model_store, get_model(model_store, "ants-bees"))
    predictor.engine = None  # type: ignore[assignment]  # no forward can succeed any more
    with running(create_app(Current(predictor))) as url:
        done = predict(folder, "ants-bees", "ant.jpg", "--url", url)
    assert done.returncode == 1
    assert re.search(r"HTTP 500: internal error \w{8}: the server's log", done.stderr)


def test_the_client_loads_neither_torch_nor_ray(url: str, folder: Path) -> None:
    program = (
        "import sys; from graft.cli.main import app; "
        f"app(['predict', 'ants-bees', 'ant.jpg', '--url', '{url}'], standalone_mode=False); "
        "print(sorted({'torch', 'ray', 'boto3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
