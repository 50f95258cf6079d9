"""HAProxy with Ray Serve's configuration, as we start it: what it answers itself, and passes on."""

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
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import free_port
from graft.serving import haproxy

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


@dataclass
class Proxied:
    """A server behind HAProxy."""

    port: int
    seen: list[dict[str, str]] = field(default_factory=list)
    """Headers, in lower case, of what came through."""

    def ask(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send bytes, and return the status of the answer and its body, which is JSON."""
        status, body = self.send(request)
        return status, json.loads(body)

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send bytes, and return the status of the answer and its body."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            client.sendall(request)
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """An HTTP server under /model, and one that is down under /down, behind `graft-haproxy`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Serve's own
        from ray.serve._private.haproxy import (
            BackendConfig,
            HAProxyApi,
            HAProxyConfig,
            ServerConfig,
        )
        from ray.serve.config import HTTPOptions

    proxied = Proxied(free_port())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            proxied.seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b'{"answer": 42}')

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("ha")
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=proxied.port),
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
            servers=[ServerConfig(name=f"{name}-1", host="127.0.0.1", port=port)],
        )
        for name, port in (("model", server.server_port), ("down", free_port()))
    }
    HAProxyApi(config, backends, str(folder / "haproxy.cfg"))._generate_config_file_internal()
    environment = os.environ | {"RAY_SERVE_HAPROXY_BINARY_PATH": haproxy.script()}
    command = [haproxy.script(), "-db", "-f", str(folder / "haproxy.cfg")]
    with subprocess.Popen(command, env=environment) as process:
        while not listens(proxied.port):
            assert process.poll() is None
            time.sleep(0.05)
        yield proxied
        process.terminate()
    server.shutdown()
    server.server_close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
            (b"GET /model HTTP/1.1\r\nCookie: " + b"x" * 70_000 + b"\r\n\r\n", 400),
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
            del proxied.seen[:]
            status, body = proxied.ask(
                b"GET /model HTTP/1.1\r\nHost: a\r\nx-request-timeout-seconds: 0.001\r\n"
                b"X-Request-Disconnect-Disabled: ?1\r\nserve_multiplexed_model_id: \xff\r\n"
                b"x-session-id: \xff\r\nX-Graft-Client: forged\r\nX-Request-Id: "
                + request_id
                + b"\r\nConnection: close\r\n\r\n"
            )
            assert (status, body) == (200, {"answer": 42})
            (seen,) = [headers for headers in proxied.seen if "x-graft-client" in headers]
            assert seen.get("x-request-id") == arrives
            assert seen["x-graft-client"] == "127.0.0.1"
            assert not [name for name in seen if "session" in name or "multiplexed" in name]
            assert not [name for name in seen if "timeout" in name or "disconnect" in name]

    def test_headers_of_a_proxy_that_signs_people_in_pass(self, proxied: Proxied) -> None:
        cookie = b"x" * 30_000
        request = b"GET /model HTTP/1.1\r\nHost: a\r\nCookie: " + cookie + b"\r\n\r\n"
        assert proxied.ask(request) == (200, {"answer": 42})
