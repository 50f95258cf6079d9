"""The HTTP door: three forms of an image in, classes out, and a reason for every refusal."""

import asyncio
import base64
import re
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from graft.registry import get_model
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.batching import MAX_BATCH
from graft.serving.engines.engine import Engine, EngineName
from graft.serving.limits import Limits
from graft.serving.predictor import Predictor
from graft.store import Store

PREDICT = "/v1/models/ants-bees/predict"
MULTIPART = "multipart/form-data"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def predictor(model_store: Store) -> Predictor:
    return Predictor.load(model_store, get_model(model_store, "ants-bees"))


@pytest.fixture(scope="module")
def app(predictor: Predictor) -> Any:
    return create_app(Current(predictor), limits=Limits(body_bytes=200_000))


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://graft")


def ask(app: Any, path: str = PREDICT, method: str = "POST", **request: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client(app) as http:
            return await http.request(method, path, **request)

    return asyncio.run(once())


def test_the_three_forms_of_one_image_give_one_answer(
    app: Any, predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    data = photograph(5)
    answers = [
        ask(app, content=data),
        ask(app, content=data, headers={"Content-Type": "image/jpeg"}),
        # What curl sends with --data-binary when nobody says otherwise.
        ask(app, content=data, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        ask(app, files={"image": ("ant.jpg", data)}),
        ask(app, json={"image": base64.b64encode(data).decode()}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    bodies = [answer.json() for answer in answers]
    expected = predictor.predict([predictor.prepare(data)]).probabilities[0]
    for body in bodies:
        assert body["model"] == "ants-bees@1"
        assert set(body["timing_ms"]) == {"decode", "predict", "total"}
        shown = {each["class"]: each["probability"] for each in body["predictions"]}
        assert shown == pytest.approx(dict(zip(predictor.version.classes, expected, strict=True)))
        ordered = [each["probability"] for each in body["predictions"]]
        assert ordered == sorted(ordered, reverse=True)


def test_base64_is_read_as_programs_write_it(app: Any, photograph: Callable[..., bytes]) -> None:
    data = photograph(5)
    plain, web = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert {"+", "/"} & set(plain)
    writings = [
        base64.encodebytes(data).decode(),  # in lines of 76
        plain.replace("A", "A\r\n", 3),
        web,
        web.rstrip("="),
        f"data:image/jpeg;base64,{plain}",
        f"DATA:;base64,{plain}",
    ]
    assert [ask(app, json={"image": text}).status_code for text in writings] == [200] * 6


def test_top_k_is_how_many_classes_at_most(app: Any, photograph: Callable[..., bytes]) -> None:
    for top_k, count in (("1", 1), ("2", 2), ("50", 3)):
        answer = ask(app, f"{PREDICT}?top_k={top_k}", content=photograph(5))
        assert len(answer.json()["predictions"]) == count


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    size = (20_000).to_bytes(4, "big")
    header = chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(60_000), 9))


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b""}, 400, "the body is empty"),
        ({"content": b"this is a text, whatever its name"}, 415, "not an image"),
        ({"content": b"\xff\xd8\xff\xe0" + bytes(500)}, 415, "the image cannot be used"),
        ({"content": bomb()}, 413, "400 megapixels"),
        ({"content": bytes(200_001)}, 413, "larger than 200,000 bytes"),
        ({"files": {"image": ("a.jpg", b"some text")}}, 415, "not an image"),
        ({"files": {"image": ("a.jpg", b"")}}, 400, "0 bytes"),
        ({"files": {"photo": ("a.jpg", b"x")}}, 400, "expected one multipart file 'image'"),
        ({"data": {"image": "x"}, "files": {"b": b"x"}}, 400, "found text 'image', file 'b'"),
        ({"files": [("image", b"a"), ("image", b"b")]}, 400, "found file 'image', file 'image'"),
        ({"files": [("image", b"a"), ("mask", b"b")]}, 400, "one multipart file 'image' and"),
        (
            {
                "content": b"--x\r\n\r\nhi\r\n--x--\r\n",
                "headers": {"Content-Type": f"{MULTIPART}; boundary=x"},
            },
            400,
            "the multipart body is broken",
        ),
        ({"content": b"x", "headers": {"Content-Type": MULTIPART}}, 400, "multipart"),
        (
            {
                "content": b"nonsense",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            400,
            "multipart",
        ),
        ({"json": {"image": "%%%"}}, 400, "not base64"),
        ({"json": {"image": "é"}}, 400, "not base64"),
        ({"json": {"image": 5}}, 400, "not base64"),
        ({"json": {"image": ""}}, 400, "0 bytes"),
        ({"json": {"image": base64.b64encode(b"text").decode()}}, 415, "not an image"),
        ({"json": {"picture": "eA=="}}, 400, "found ['picture']"),
        ({"json": ["eA=="]}, 400, "found an array"),
        ({"json": {}}, 400, "found an object"),
        ({"json": None, "content": b"null", "headers": JSON}, 400, "found null"),
        ({"json": {"image": {"b64": "eA=="}}}, 400, "not base64 but an object"),
        ({"json": {"image": None}}, 400, "not base64 but null"),
        ({"json": {"image": True}}, 400, "not base64 but a boolean"),
        ({"json": {"image": "eA=="}, "headers": {"Content-Length": "many"}}, 400, "'many'"),
        ({"json": {"image": "data:image/png,%89PNG"}}, 400, "data URL that is not base64"),
        ({"json": {"image": "eA==eA=="}}, 400, "= only at the end"),
        ({"json": {"image": "eA==e"}}, 400, "= only at the end"),
        ({"json": {"image": "e"}}, 400, "characters are missing"),
        (
            {"content": b'{"image": "eA==", "image": "eQ=="}', "headers": JSON},
            400,
            "found ['image', 'image']",
        ),
        ({"content": b"[" * 100_000, "headers": JSON}, 400, "more than 32 values"),
        ({"content": b'{"image": ' + b"9" * 9_000 + b"}", "headers": JSON}, 400, "not JSON"),
        ({"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "'gzip'"),
        ({"content": b"{", "headers": JSON}, 400, "not JSON"),
        ({"content": b"\xff", "headers": JSON}, 400, "not JSON"),
    ],
)
def test_a_bad_image_gets_a_4xx_with_its_reason(
    app: Any, request_: dict[str, Any], status: int, reason: str
) -> None:
    answer = ask(app, **request_)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1.5", ""])
def test_a_bad_top_k_is_named(app: Any, photograph: Callable[..., bytes], top_k: str) -> None:
    answer = ask(app, f"{PREDICT}?top_k={top_k}", content=photograph(5))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"top_k is '{top_k}': ")


@pytest.mark.parametrize("query", ["topk=1", "top_k=1&top_k=2", "top_k=1&version=2", "=1"])
def test_query_parameters_that_would_be_ignored_are_refused(
    app: Any, photograph: Callable[..., bytes], query: str
) -> None:
    answer = ask(app, f"{PREDICT}?{query}", content=photograph(5))
    assert answer.status_code == 400
    assert "expected top_k once, or none" in answer.json()["error"]


def test_an_unknown_model_address_or_method_is_json_too(app: Any) -> None:
    answer = ask(app, "/v1/models/wasps/predict", content=b"x")
    assert answer.status_code == 404
    assert answer.json() == {"error": "no model 'wasps' here; this server has 'ants-bees'"}
    assert ask(app, "/nowhere").status_code == 404
    answer = ask(app, method="GET")
    assert answer.status_code == 405
    assert answer.json() == {"error": "Method Not Allowed"}


def test_a_body_that_is_too_large_is_not_read_to_its_end(app: Any) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 50_000
            yield bytes(50_000)

    answer = ask(app, content=endless())
    assert answer.status_code == 413
    assert sent <= 300_000


def test_health_and_models(app: Any) -> None:
    assert ask(app, "/healthz", "GET").json() == {
        "status": "ok",
        "model": "ants-bees@1",
        "refused": None,
    }
    model = {
        "name": "ants-bees",
        "version": 1,
        "arch": "squeezenet1_1",
        "classes": ["ants", "bees", "wasps"],
        "engine": "torch",
        "engine_reason": "it was asked for",
        "decided_by": None,
    }
    assert ask(app, "/v1/models", "GET").json() == {"models": [model]}
    assert ask(app, "/v1/models/ants-bees", "GET").json() == model
    assert ask(app, "/v1/models/wasps", "GET").status_code == 404


def test_a_load_balancer_that_asks_the_root_gets_the_health(app: Any) -> None:
    answer = ask(app, "/", "GET")
    assert (answer.status_code, answer.json()) == (200, ask(app, "/healthz", "GET").json())


def test_all_paths_are_there_behind_a_prefix(app: Any) -> None:
    """As Ray Serve asks an app whose route is not `/`."""

    async def once(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path="/cats")
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            return await http.get(f"/cats{path}", follow_redirects=True)

    for path in ("", "/", "/healthz", "/v1/models", "/docs", "/docs/assets/swagger-ui.css"):
        assert asyncio.run(once(path)).status_code == 200, path
    assert asyncio.run(once(PREDICT)).status_code == 405  # it is there, for POST


def test_head_is_answered_wherever_get_is(app: Any) -> None:
    paths = ["/", "/healthz", "/v1/models", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"]
    for path in paths:
        full, head = ask(app, path, "GET"), ask(app, path, "HEAD")
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-length"] == full.headers["content-length"]
    assert ask(app, method="HEAD").status_code == 405
    assert ask(app, "/nowhere", "HEAD").status_code == 404


def test_docs_need_no_other_host(app: Any) -> None:
    page = ask(app, "/docs", "GET")
    assert page.status_code == 200
    addresses = re.findall(r"(?:src|href|url)\s*[=:]\s*[\"']([^\"']+)", page.text)
    assert len(addresses) == 4  # script, style, icon, openapi.json
    for address in addresses:
        assert "//" not in address
        answer = ask(app, f"/{address}", "GET")
        assert answer.status_code == 200, address
        assert len(answer.content) > 500


def test_the_three_forms_are_documented(app: Any) -> None:
    document = ask(app, "/openapi.json", "GET").json()
    assert document["openapi"].startswith("3.0.")  # what the bundled Swagger UI reads
    operation = document["paths"]["/v1/models/{name}/predict"]["post"]
    forms = set(operation["requestBody"]["content"])
    assert forms == {"image/*", "multipart/form-data", "application/json"}
    assert set(operation["responses"]) == {"200", "4XX", "5XX"}


class Recorder(Engine):
    """Notes the batch sizes of a predictor, and can be made to fail."""

    name: EngineName = "torch"

    def __init__(self, inner: Predictor):
        self.predictor = Predictor(inner.version, self)
        self.inner = inner
        self.batches: list[int] = []
        self.fail = False

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        if self.fail:
            raise RuntimeError("out of memory")
        return self.inner.engine.logits(images)


def test_requests_that_arrive_together_share_forwards(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    recorder = Recorder(predictor)
    app = create_app(Current(recorder.predictor))
    files = [photograph(seed) for seed in range(40)]

    async def all_at_once() -> list[httpx.Response]:
        async with client(app) as http:
            return await asyncio.gather(*(http.post(PREDICT, content=data) for data in files))

    answers = asyncio.run(all_at_once())
    assert sum(recorder.batches) == 40
    assert 1 < max(recorder.batches) <= MAX_BATCH
    expected = predictor.predict([predictor.prepare(data) for data in files]).probabilities
    for answer, row in zip(answers, expected, strict=True):
        shown = {each["class"]: each["probability"] for each in answer.json()["predictions"]}
        assert shown == pytest.approx(
            dict(zip(predictor.version.classes, row, strict=True)), rel=1e-4
        )


def test_a_client_that_goes_away_takes_nobody_with_it(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    recorder = Recorder(predictor)
    app = create_app(Current(recorder.predictor))

    async def some_leave() -> list[httpx.Response]:
        async with client(app) as http:
            tasks = [
                asyncio.create_task(http.post(PREDICT, content=photograph(seed)))
                for seed in range(8)
            ]
            while not recorder.batches:
                await asyncio.sleep(0.001)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks)
            return [task.result() for task in tasks[1::2]]

    assert [answer.status_code for answer in asyncio.run(some_leave())] == [200] * 4


def test_an_unexpected_error_is_json_with_an_id_that_the_log_has(
    predictor: Predictor, photograph: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(predictor)
    app = create_app(Current(recorder.predictor))

    async def fail_then_work() -> tuple[httpx.Response, httpx.Response]:
        async with client(app) as http:
            recorder.fail = True
            first = await http.post(PREDICT, content=photograph(1))
            recorder.fail = False
            return first, await http.post(PREDICT, content=photograph(1))

    first, second = asyncio.run(fail_then_work())
    assert (first.status_code, second.status_code) == (500, 200)
    incident = re.fullmatch(r"internal error (\w{8}): the server's .*", first.json()["error"])
    assert incident
    assert f"error {incident[1]} in POST '{PREDICT}'" in caplog.text
    assert "RuntimeError: out of memory" in caplog.text


def test_a_client_that_leaves_within_its_body_is_no_error(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def leaves(_: Any = None) -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [], "query_string": b""}
    asyncio.run(app(scope, leaves, leaves))
    assert caplog.text == ""


def test_the_check_of_a_server_goes_before_all_that_wait(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    recorder = Recorder(predictor)
    app = create_app(Current(recorder.predictor))

    async def check_under_load() -> int:
        async with client(app) as http:
            data = photograph(1)
            tasks = [asyncio.create_task(http.post(PREDICT, content=data)) for _ in range(64)]
            while not recorder.batches:
                await asyncio.sleep(0.001)
            await app.state.check()
            waiting = sum(not task.done() for task in tasks)
            await asyncio.gather(*tasks)
            return waiting

    assert asyncio.run(check_under_load()) > MAX_BATCH
    recorder.fail = True
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(app.state.check())


def test_large_headers_are_refused(app: Any) -> None:
    for request in (
        {"headers": {"Cookie": "x" * 33_000}},
        {"path": f"/{'x' * 33_000}"},
        {"path": f"{PREDICT}?top_k={'1' * 33_000}"},
        {"headers": [("x", "")] * 8_000},
    ):
        answer = ask(app, **request)
        assert answer.status_code == 431
        assert re.fullmatch(
            r"headers and address have [3-4]\d,\d{3} bytes, expected 32,768", answer.json()["error"]
        )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[" * 20_000, "application/json"),
        (b'{"' + b'a":{"' * 20_000, "application/json"),
        (b"{" + b'"a":1,' * 20_000, "application/json"),
        (b'{"image": "' + b"! " * 50_000 + b'"}', "application/json"),
        (b'{"image": "' + "é".encode() * 50_000 + b'"}', "application/json"),
        (b'{"' + b"x" * 100_000 + b'": ""}', "application/json"),
        (b"--x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n--x--\r\n", f"{MULTIPART}; boundary=x"),
        (b"--x\r\n\r\n" * 20_000 + b"--x--\r\n", f"{MULTIPART}; boundary=x"),
        (b"hello", f"{MULTIPART}; boundary={'x' * 20_000}"),
        (b"hello", f"{MULTIPART}; boundary="),
    ],
)
def test_no_refusal_repeats_at_length_what_was_sent(app: Any, body: bytes, kind: str) -> None:
    answer = ask(app, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert len(answer.content) < 400


def test_who_finds_no_place_is_told_when_to_try_again(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    """Of ten requests of one caller at once, in four places, two come in; the next caller, too."""
    recorder = Recorder(predictor)
    app = create_app(Current(recorder.predictor), limits=Limits(places=4))
    data = photograph(5)

    async def all_at_once() -> list[httpx.Response]:
        async with client(app) as http:
            headers = [{"X-Graft-Client": "192.0.2.1"}] * 10 + [{"X-Graft-Client": "192.0.2.2"}]
            sent = [http.post(PREDICT, content=data, headers=header) for header in headers]
            return await asyncio.gather(*sent)

    answers = asyncio.run(all_at_once())
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 8 + [200]
    for answer in answers[2:10]:
        assert answer.headers["retry-after"] == "1"
        assert "your share of places" in answer.json()["error"]
    assert ask(app, content=data).status_code == 200  # all places are free again


def test_a_forward_that_hangs_keeps_nobody_waiting(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    recorder, go_on = Recorder(predictor), threading.Event()
    logits = recorder.logits

    def hangs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        go_on.wait(60)
        return logits(images)

    recorder.logits = hangs  # type: ignore[method-assign]
    app = create_app(Current(recorder.predictor), limits=Limits(answer_s=0.1))
    answer = ask(app, content=photograph(5))
    go_on.set()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "no answer within" in answer.json()["error"]


def test_pages_of_listed_origins_may_ask(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    app = create_app(Current(predictor), origins=["https://lab.example"])
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for origin, status in (("https://lab.example", 200), ("https://elsewhere.example", 400)):
        allowed = origin if status == 200 else None
        headers = {"Origin": origin}
        asked = ask(app, method="OPTIONS", headers=headers | preflight)
        assert asked.status_code == status
        assert asked.headers.get("access-control-allow-origin") == allowed
        for content in (photograph(5), b"no image"):
            answer = ask(app, content=content, headers=headers)
            assert answer.headers.get("access-control-allow-origin") == allowed


def test_without_origins_no_page_may_ask(app: Any) -> None:
    answer = ask(app, "/healthz", "GET", headers={"Origin": "https://lab.example"})
    assert "access-control-allow-origin" not in answer.headers
