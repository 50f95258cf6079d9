"""The proxy on the way to a cluster is the one that kubectl would take."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from graft.cluster.kubernetes_api import Kube
from graft.errors import ClusterLost

SERVER = "http://kube.invalid"  # which only a proxy could know


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers for everybody, and what it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"items": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **cluster: str) -> Kube:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}}],
        "clusters": [{"name": "k", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(
        "graft.cluster.kubernetes_api.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
        str(tmp_path / "config"),
    )
    return Kube.connect()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_kubeconfigs_proxy_url_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: tuple[str, list[str]]
) -> None:
    url, asked = proxy
    monkeypatch.setenv("NO_PROXY", "*")  # of the environment's proxies
    assert kube(tmp_path, monkeypatch, **{"proxy-url": url}).items("/api/v1/nodes") == []
    assert asked == [f"{SERVER}/api/v1/nodes?limit=500"]


@pytest.mark.parametrize("no_proxy", ["", ".other.invalid"])
def test_the_environments_proxy_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxy: tuple[str, list[str]],
    no_proxy: str,
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert kube(tmp_path, monkeypatch).items("/api/v1/nodes") == []
    assert asked == [f"{SERVER}/api/v1/nodes?limit=500"]


@pytest.mark.parametrize("no_proxy", ["kube.invalid", ".invalid", "*"])
def test_no_proxy_is_heeded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxy: tuple[str, list[str]],
    no_proxy: str,
) -> None:
    url, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with pytest.raises(ClusterLost):
        kube(tmp_path, monkeypatch).items("/api/v1/nodes")
    assert asked == []
