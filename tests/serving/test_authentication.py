"""Who may ask: with a key, without one, and with one for something else."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route

import commands
from graft.registry import get_model
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.authentication import scope_of
from graft.serving.keys import KeyRing, new_key
from graft.serving.limits import Limits
from graft.serving.predictor import Predictor
from graft.store import Store

PREDICT = "/v1/models/ants-bees/predict"
PAGE = "https://lab.example"


class Guarded:
    """An app that wants a key, and has pages ask that are at `PAGE`."""

    def __init__(self, predictor: Predictor, file: Path):
        self.keys = {
            scope: new_key(file, f"for-{scope}", (scope,)) for scope in ("predict", "admin")
        }
        self.other = new_key(file, "other", ("predict",))
        self.app = create_app(
            Current(predictor), limits=Limits(places=4), origins=[PAGE], ring=KeyRing(file)
        )

    def ask(self, method: str, path: str, prefix: str = "", **request: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, root_path=prefix)
            async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
                return await http.request(method, prefix + path, **request)

        return asyncio.run(once())


@pytest.fixture(scope="module")
def guarded(model_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    predictor = Predictor.load(model_store, get_model(model_store, "ants-bees"))
    return Guarded(predictor, tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.mark.parametrize("prefix", ["", "/cats"])
def test_a_key_opens_what_it_is_for_in_either_header(
    guarded: Guarded, photograph: Callable[..., bytes], prefix: str
) -> None:
    key = guarded.keys["predict"]
    basic = {"Authorization": "Basic dTpw", "X-API-Key": key}  # a proxy's own, beside ours
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {key}"}, basic):
        asked = guarded.ask("POST", PREDICT, prefix, content=photograph(1), headers=headers)
        assert asked.status_code == 200
        assert guarded.ask("GET", "/v1/models", prefix, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "challenge", "reason"),
    [
        ({}, "", "a key is needed: send it as `Authorization: Bearer KEY` or"),
        ({"Authorization": "Basic dTpw"}, "", "a key is needed"),
        ({"Authorization": "Bearer"}, "", "a key is needed"),
        ({"Authorization": "Bearer x"}, ', error="invalid_token"', "the key is not valid"),
        ({"X-API-Key": "\xe9" * 300}, ', error="invalid_token"', "the key is not valid"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/cats"])
def test_without_a_valid_key_nothing_is_answered_or_read(
    guarded: Guarded, headers: dict[str, str], challenge: str, reason: str, prefix: str
) -> None:
    raw = {name: text.encode("latin-1") for name, text in headers.items()}
    for method, path in (("POST", PREDICT), ("GET", "/v1/models"), ("GET", "/v1/nowhere")):
        answer = guarded.ask(method, path, prefix, headers=raw)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == f'Bearer realm="graft"{challenge}'
        assert answer.json()["error"].startswith(reason)


def test_a_key_for_something_else_is_told_so(guarded: Guarded) -> None:
    headers = {"X-API-Key": guarded.keys["admin"]}
    answer = guarded.ask("POST", PREDICT, content=b"x", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"] == "the key 'for-admin' is for admin; this path is for predict"
    challenge = 'Bearer realm="graft", error="insufficient_scope", scope="predict"'
    assert answer.headers["WWW-Authenticate"] == challenge
    assert guarded.ask("GET", "/v1/models/ants-bees/stats", headers=headers).status_code == 200
    headers = {"X-API-Key": guarded.keys["predict"]}
    answer = guarded.ask("GET", "/v1/models/ants-bees/stats", headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"][-14:]) == (403, ' scope="admin"')


def test_places_are_shared_by_keys_wherever_these_come_from(
    guarded: Guarded, photograph: Callable[..., bytes]
) -> None:
    """Of ten requests with one key at once, in four places, two come in; another key's, too."""

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(guarded.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            keys = [guarded.keys["predict"]] * 10 + [guarded.other]
            sent = [
                http.post(PREDICT, content=photograph(1), headers={"X-API-Key": key})
                for key in keys
            ]
            return await asyncio.gather(*sent)

    answers = asyncio.run(all_at_once())
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 8 + [200]


def test_a_page_of_a_listed_origin_can_read_every_answer(
    guarded: Guarded, photograph: Callable[..., bytes]
) -> None:
    asks = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,content-type",
    }
    assert guarded.ask("OPTIONS", PREDICT, headers=asks).status_code == 200  # it has no key yet
    page, key = {"Origin": PAGE}, {"X-API-Key": guarded.keys["predict"]}
    for path, body, headers, status in (
        (PREDICT, photograph(1), key, 200),
        (PREDICT, photograph(1), {}, 401),
        ("/v1/models/ants-bees/stats", b"", key, 403),
        ("/v1/nowhere", b"", key, 404),
        (PREDICT, b"no image", key, 415),
        (PREDICT, b"", key | {"Cookie": "x" * 33_000}, 431),
    ):
        method = "GET" if "stats" in path else "POST"
        answer = guarded.ask(method, path, content=body, headers=page | headers)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Vary"] == "Origin"
        assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]


def test_health_and_the_description_are_open(guarded: Guarded) -> None:
    for prefix in ("", "/cats"):
        for path in ("/", "/healthz", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert guarded.ask("GET", path, prefix).status_code == 200, path
    document = guarded.ask("GET", "/openapi.json").json()
    assert document["security"] == [{"BearerAuth": []}, {"ApiKey": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/docs/assets/../../v1/models",
        "/docs/assets/%2e%2e/%2e%2e/v1/models",
        "//v1/models",
        "/healthz/",
        "/healthz/../v1/models",
        "/v1/models/",
        "/cats/healthz",
    ],
)
def test_no_spelling_of_a_path_leads_around_a_key(guarded: Guarded, path: str) -> None:
    answer = guarded.ask("GET", path, follow_redirects=True)
    assert answer.status_code in (401, 404)
    assert "classes" not in answer.text


def test_every_route_says_whom_it_is_for(guarded: Guarded) -> None:
    """What a new route is for is decided here, and not forgotten."""

    def path(route: BaseRoute) -> str:
        assert isinstance(route, APIRoute | Route | Mount)
        return route.path.replace("{name}", "ants-bees")

    wanted = {one: scope_of({"path": one}) for one in map(path, guarded.app.routes)}
    assert wanted == {
        "/openapi.json": None,
        "/docs": None,
        "/docs/assets": "predict",  # the folder itself; files in it are open
        "/": None,
        "/healthz": None,
        "/v1/models": "predict",
        "/v1/models/ants-bees": "predict",
        PREDICT: "predict",
        "/v1/models/ants-bees/stats": "admin",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others would reach this server, and it wants"),
        (["--host", "::"], "--host ::: others would reach"),
        (["--host", "node-1"], "--host node-1: others would reach"),
        (["--keys", "absent.json"], "absent.json: no such file; `graft keys new absent.json"),
        (["--keys", "keys.json", "--no-auth"], "--keys and --no-auth: either those who have"),
    ],
)
def test_a_server_for_others_wants_keys_or_a_word(
    tmp_path: Path, options: list[str], message: str
) -> None:
    done = commands.main("serve", "ants-bees", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"graft: {message}")


def test_this_machine_and_a_word_are_enough(tmp_path: Path) -> None:
    for options in (
        ["--host", "127.0.0.2"],
        ["--host", "localhost"],
        ["--host", "0.0.0.0", "--no-auth"],
    ):
        done = commands.main("serve", "ants-bees", *options, "--store", tmp_path)
        assert "no model 'ants-bees'" in done.stderr
