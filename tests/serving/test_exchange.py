"""What is known of every request: its id, its line in the access log, and figures of all."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import commands
from graft.errors import InputError
from graft.registry import get_model
from graft.serving.access_log import AccessLog, entry, pipe_to_stdout
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.exchange import LEFT, Exchange
from graft.serving.keys import KeyRing, new_key
from graft.serving.predictor import Predictor
from graft.store import Store

PREDICT = "/v1/models/ants-bees/predict"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def predictor(model_store: Store) -> Predictor:
    return Predictor.load(model_store, get_model(model_store, "ants-bees"))


def ask(app: Any, path: str = PREDICT, method: str = "POST", **request: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            return await http.request(method, path, **request)

    return asyncio.run(once())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_request_has_a_line_with_who_asked_what_and_how_long_it_took(
    predictor: Predictor, photograph: Callable[..., bytes], tmp_path: Path
) -> None:
    key = new_key(tmp_path / "keys.json", "shop", ("predict",))
    ring, log = KeyRing(tmp_path / "keys.json"), tmp_path / "access.log"
    app = create_app(Current(predictor), ring=ring, watchers=[AccessLog(str(log))])
    data, headers = photograph(1), {"X-API-Key": key}
    answer = ask(app, content=data, headers=headers | {"X-Request-Id": "order-7"})
    ask(app, content=b"text", headers=headers)
    ask(app, f"/{'x' * 5000}?secret=1", "GET")
    for probe in ("/", "/healthz"):
        ask(app, probe, "GET")
    answered, refused, keyless = lines(log)
    assert answered["request_id"] == answer.headers["X-Request-Id"] == "order-7"
    best = answer.json()["predictions"][0]
    assert (answered["status"], answered["reason"], answered["key"]) == (200, None, "shop")
    assert (answered["model"], answered["class"]) == ("ants-bees@1", best["class"])
    assert answered["probability"] == pytest.approx(best["probability"], abs=1e-4)
    assert (answered["bytes"], answered["bytes_sent"]) == (len(data), len(answer.content))
    parts = [answered[f"{part}_ms"] for part in ("decode", "wait", "forward")]
    assert min(parts) >= 0
    assert sum(parts) <= answered["total_ms"]
    assert answered["batch"] == 1
    assert (refused["status"], refused["reason"], refused["model"]) == (415, "no_image", None)
    assert (keyless["status"], keyless["reason"], keyless["key"]) == (401, "no_key", None)
    assert keyless["path"] == f"/{'x' * 199}"  # and no query, which may have what is private
    assert max(map(len, log.read_text().splitlines())) < 4096


@pytest.mark.parametrize(
    ("headers", "request_id", "trace_id"),
    [
        ({}, "[0-9a-f]{32}", None),
        ({"X-Request-Id": "a-1"}, "a-1", None),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE, TRACE),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-Id": "b"}, "b", TRACE),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, "[0-9a-f]{32}", None),
        ({"traceparent": "nonsense", "X-Request-Id": "a b"}, "[0-9a-f]{32}", None),
        ({"X-Request-Id": "x" * 65}, "[0-9a-f]{32}", None),
    ],
)
def test_a_request_keeps_its_id_where_that_is_well_formed_and_gets_one_else(
    predictor: Predictor,
    tmp_path: Path,
    headers: dict[str, str],
    request_id: str,
    trace_id: str | None,
) -> None:
    log = tmp_path / "access.log"
    app = create_app(Current(predictor), watchers=[AccessLog(str(log))])
    answer = ask(app, "/v1/models", "GET", headers=headers)
    (line,) = lines(log)
    assert re.fullmatch(request_id, line["request_id"])
    assert answer.headers.get_list("X-Request-Id") == [line["request_id"]]
    assert line["trace_id"] == trace_id


def test_who_leaves_and_what_fails_have_a_line_too(
    predictor: Predictor, photograph: Callable[..., bytes], tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    broken = Predictor(predictor.version, None)  # type: ignore[arg-type]  # no forward succeeds
    app = create_app(Current(broken), watchers=[AccessLog(str(log))])
    assert ask(app, content=photograph(1)).status_code == 500

    async def leaves(_: Any = None) -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [], "query_string": b""}
    asyncio.run(app(scope, leaves, leaves))
    assert [(line["status"], line["reason"]) for line in lines(log)] == [
        (500, "error"),
        (LEFT, "left"),
    ]


def test_a_log_that_cannot_be_written_holds_up_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="cannot be written: No such device or address"):
        AccessLog(str(pipe))  # nobody reads it
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(pipe))
    exchange = Exchange("GET", "/v1/models", "a" * 32, None)
    size = len(json.dumps(entry(exchange)))
    for _ in range(2 * 1_048_576 // size):  # more than any pipe has room for
        log.ended(exchange)
    assert caplog.text.count("lines of the access log") == 1
    assert {line.get("dropped_before") for line in in_pipe(reader)} == {None}
    log.ended(exchange)
    (line,) = in_pipe(reader)
    assert line["dropped_before"] > 0
    os.close(reader)


def in_pipe(reader: int) -> list[dict[str, Any]]:
    """Return the lines that a pipe has now."""
    read = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            read += os.read(reader, 65_536)
    return [json.loads(line) for line in read.splitlines()]


def test_what_goes_into_the_pipe_comes_out_at_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    exchange = Exchange("GET", "/v1/models", "a", None)
    with pipe_to_stdout() as path:
        logs = [AccessLog(path) for _ in range(2)]
        for number in range(100):
            logs[number % 2].ended(exchange)
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["request_id"] for line in printed] == ["a"] * 100


def test_stats_count_what_a_replica_has_done(
    predictor: Predictor, photograph: Callable[..., bytes]
) -> None:
    app = create_app(Current(predictor))
    best = [ask(app, content=photograph(seed)).json()["predictions"][0] for seed in range(3)]
    ask(app, content=b"text")
    ask(app, "/healthz", "GET")
    stats = ask(app, "/v1/models/ants-bees/stats", "GET").json()
    assert (stats["model"], stats["requests"], stats["in_progress"]) == ("ants-bees@1", 4, 1)
    assert stats["status"] == {"200": 3, "415": 1}
    assert stats["refused"] == {"no_image": 1}
    assert stats["versions"] == {"ants-bees@1": 3}
    classes = [one["class"] for one in best]
    assert stats["classes"] == {name: classes.count(name) for name in set(classes)}
    shown = stats["probability"]
    assert shown["mean"] == pytest.approx(sum(one["probability"] for one in best) / 3)
    assert shown["at_most"]["0.5"] == sum(one["probability"] <= 0.5 for one in best)
    assert stats["batch"]["at_most"]["1"] == stats["batch"]["count"] == 3
    for times in stats["seconds"].values():
        assert times["at_most"]["+Inf"] == times["count"] == 3
        assert list(times["at_most"].values()) == sorted(times["at_most"].values())
    assert ask(app, "/v1/models/wasps/stats", "GET").status_code == 404


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--access-log", "-", "--json"], "--access-log - and --json: both want stdout"),
        (["--access-log", "absent/a.log"], "the access log absent/a.log cannot be written: No"),
    ],
)
def test_a_log_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, options: list[str], message: str
) -> None:
    done = commands.main("serve", "ants-bees", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"graft: {message}")
