"""HAProxy with Ray Serve's configuration, as we start it: what it answers itself, and passes on."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import free_port
from graft.serving import haproxy

NOWHERE = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
RENDERED = """\
global
    maxconn 4096
    nbthread 4
    tune.bufsize 16384
defaults
    mode http
    timeout connect 5s
    timeout client 3600s
    timeout http-keep-alive 5s
    retry-on conn-failure
    # Normalize 502/503/504
    errorfile 502 /tmp/500.http
    errorfile 503 /tmp/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
listen stats
  bind *:8404
"""


def test_a_line_takes_the_place_of_those_that_begin_alike() -> None:
    lines = haproxy.patched(RENDERED, Path("/errors"), "0.0.0.0").splitlines()
    words = [line.strip() for line in lines]
    for kept in ("nbthread 4", "timeout connect 5s", "timeout http-keep-alive 5s", "mode http"):
        assert words.count(kept) == 1
    for once in (
        "timeout client",
        "timeout http-request",
        "retry-on",
        "maxconn",
        "tune.bufsize",
        "errorfile 502",
        "errorfile 408",
    ):
        assert [line.startswith(f"{once} ") for line in words].count(True) == 1, once
    assert "errorfile 503 /errors/503.http" in words
    assert [line for line in words if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 0.0.0.0:8000",
        "bind 127.0.0.1:8404",
    ]
    assert "%[path]" not in "".join(lines)


def test_where_ray_serve_says_the_server_listens_it_does() -> None:
    everywhere = RENDERED.replace("bind 127.0.0.1:8000", "bind *:8000")
    assert "\n    bind *:8000\n" in haproxy.patched(everywhere, Path("/errors"))


class Model(http.server.ThreadingHTTPServer):
    """What stands behind HAProxy; `seen` are the headers, in lower case, of what came through."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Model

    def do_GET(self) -> None:
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b'{"answer": 42}')

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Proxied:
    """A model behind HAProxy."""

    port: int
    model: Model
    process: "subprocess.Popen[bytes]"

    def ask(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send bytes, and return the status of the answer and its body, which is JSON."""
        status, body = self.send(request)
        return status, json.loads(body)

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send bytes, and return the status of the answer and its body."""
        with self.connect() as client:
            client.sendall(request)
            answer = all_of(client)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def all_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def proxied(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with running(tmp_path_factory.mktemp("ha"), model) as proxied:
        yield proxied


@contextlib.contextmanager
def running(folder: Path, model: Model) -> Iterator[Proxied]:
    """Run `graft-haproxy` with Ray Serve's configuration, files in `folder`.

    A model is under /model; what is under /down is down.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Serve's own
        from ray.serve._private.haproxy import (
            BackendConfig,
            HAProxyApi,
            HAProxyConfig,
            ServerConfig,
        )
        from ray.serve.config import HTTPOptions

    port = free_port()
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        stats_port=free_port(),
        metrics_port=free_port(),
        nbthread=1,
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        has_received_routes=True,
        has_received_servers=True,
    )
    backends = {
        name: BackendConfig(
            name=name,
            path_prefix=f"/{name}",
            app_name=name,
            servers=[ServerConfig(name=f"{name}-1", host="127.0.0.1", port=listens_at)],
        )
        for name, listens_at in (("model", model.server_port), ("down", free_port()))
    }
    HAProxyApi(config, backends, str(folder / "haproxy.cfg"))._generate_config_file_internal()
    environment = os.environ | {"RAY_SERVE_HAPROXY_BINARY_PATH": haproxy.script()}
    command = [haproxy.script(), "-db", "-f", str(folder / "haproxy.cfg")]
    with subprocess.Popen(command, env=environment) as process:
        proxied = Proxied(port, model, process)
        try:
            while not proxied.listens():
                assert process.poll() is None
                time.sleep(0.05)
            yield proxied
        finally:
            process.kill()


def test_graft_haproxy_is_installed_and_becomes_haproxy() -> None:
    assert Path(haproxy.script()).parent == Path(sys.executable).parent
    done = subprocess.run([haproxy.script(), "-v"], capture_output=True, text=True)
    assert done.stdout.startswith("HAProxy version")


@pytest.mark.slow  # Ray Serve's modules are imported, and a server waits for a slow client
class TestProxied:
    def test_what_it_answers_by_itself_is_json_under_its_own_status(self, proxied: Proxied) -> None:
        slow = b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nslow"
        for request, status, reason in (
            (b"GET /down HTTP/1.1\r\nHost: a\r\n\r\n", 503, "no replica answers now"),
            (b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "nothing is served"),
            (slow, 408, "within 10 s"),
        ):
            answer = proxied.ask(request)
            assert answer[0] == status, request[:40]
            assert reason in answer[1]["error"]

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"no request\r\n\r\n", 400),
            (b"GET /model HTTP/1.1\r\nCookie: " + b"x" * 140_000 + b"\r\n\r\n", 400),
            (b"GET /model HTTP/1.1\r\nHost: a\r\nX", 408),
        ],
    )
    def test_what_is_no_http_ends_soon(
        self, proxied: Proxied, request_: bytes, status: int
    ) -> None:
        assert proxied.send(request_)[0] == status

    def test_orders_to_ray_serve_do_not_arrive(self, proxied: Proxied) -> None:
        """Nor what it fails to read; a request's id does, where it is one."""
        for request_id, arrives in ((b"abc-1", "abc-1"), (b"\xff", None), (b"x" * 200, None)):
            del proxied.model.seen[:]
            status, body = proxied.ask(
                b"GET /model HTTP/1.1\r\nHost: a\r\nx-request-timeout-seconds: 0.001\r\n"
                b"X-Request-Disconnect-Disabled: ?1\r\nserve_multiplexed_model_id: \xff\r\n"
                b"x-session-id: \xff\r\nX-Graft-Client: forged\r\nX-Request-Id: "
                + request_id
                + b"\r\nConnection: close\r\n\r\n"
            )
            assert (status, body) == (200, {"answer": 42})
            (seen,) = [headers for headers in proxied.model.seen if "x-graft-client" in headers]
            assert seen.get("x-request-id") == arrives
            assert seen["x-graft-client"] == "127.0.0.1"
            assert not [name for name in seen if "session" in name or "multiplexed" in name]
            assert not [name for name in seen if "timeout" in name or "disconnect" in name]

    def test_headers_of_a_proxy_that_signs_people_in_pass(self, proxied: Proxied) -> None:
        cookie = b"x" * 30_000
        request = b"GET /model HTTP/1.1\r\nHost: a\r\nCookie: " + cookie + b"\r\n\r\n"
        assert proxied.ask(request) == (200, {"answer": 42})

    def test_one_that_drains_answers_what_has_begun(self, model: Model, tmp_path: Path) -> None:
        """Also what comes later on an open connection; a terminal's Ctrl-C does not reach it."""
        with (
            running(tmp_path, model) as proxied,
            proxied.connect() as late,
            proxied.connect() as idle,
            ThreadPoolExecutor(1) as pool,
        ):
            assert os.getpgid(proxied.process.pid) == proxied.process.pid
            idle.sendall(NOWHERE)
            assert b"nothing is served" in idle.recv(65536)
            late.sendall(POST + b"la")
            drained = pool.submit(haproxy.drain, tmp_path)
            while proxied.listens():
                time.sleep(0.01)
            idle.sendall(NOWHERE)
            answer = all_of(idle)
            assert b"nothing is served" in answer
            assert b"connection: close" in answer
            assert not drained.done()
            late.sendall(b"te")
            assert all_of(late).endswith(b'{"answer": 42}')
            drained.result(60)

    def test_a_drain_ends_after_its_time(self, model: Model, tmp_path: Path) -> None:
        with running(tmp_path, model) as proxied, proxied.connect() as late:
            late.sendall(POST + b"la")
            haproxy.drain(tmp_path, 0.5)
            late.sendall(b"te")
            assert all_of(late).endswith(b'{"answer": 42}')

    def test_where_no_haproxy_runs_there_is_nothing_to_drain(self, tmp_path: Path) -> None:
        haproxy.drain(tmp_path)
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(tmp_path / "admin.sock"))
        haproxy.drain(tmp_path)
