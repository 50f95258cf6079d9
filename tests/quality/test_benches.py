"""The parts of the benchmarks that others build on: load, settings, what they end."""

import http.server
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_wrk_posts_the_file_with_the_headers_and_prints_its_figures() -> None:
    import wrk

    text = wrk.script(Path('/a folder/"1".jpg'), {"X-API-Key": "graft_1"})
    assert r'io.open("/a folder/\"1\".jpg", "rb")' in text
    assert 'wrk.headers["X-API-Key"] = "graft_1"' in text
    said = 'Running 2s test\n{"requests": 90, "seconds": 2.0, "failed": 10, '
    load = wrk.parsed(said + '"p50_ms": 3.5, "p99_ms": 9.0}\n', cpu_seconds=0.5)
    assert (load.requests_per_second, load.failed, load.p50_ms, load.p99_ms) == (40, 10, 3.5, 9)
    assert load.client_share == 0.25 / len(os.sched_getaffinity(0))


def test_the_fastest_setting_is_found_axis_after_axis_and_each_is_measured_once() -> None:
    from tuning import fastest

    measured: list[Mapping[str, int]] = []

    def rate(setting: Mapping[str, int]) -> float:
        measured.append(setting)
        return setting["workers"] * setting["batch"] - 10 * setting["proxy"]

    workers, batches = ({"workers": 1}, {"workers": 2}), ({"batch": 1}, {"batch": 8})
    axes = [workers, batches, ({"proxy": 1}, {"proxy": 0})]
    assert fastest(axes, rate) == {"workers": 2, "batch": 8, "proxy": 0}
    assert len(measured) == 4
    assert fastest([], rate) == {}


@pytest.fixture
def moody_server() -> Iterator[str]:
    """Refuses every fifth request."""
    count = itertools.count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            busy = next(count) % 5 == 0
            self.rfile.read(int(self.headers["Content-Length"]))
            status, document = (503, {"error": "busy"}) if busy else (200, {"model": "m@1"})
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64  # all clients may come at once; by default 5 may wait

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predict"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_steady_load_counts_each_request_once_and_says_why_one_failed(moody_server: str) -> None:
    from steady import Steady, failures

    with Steady(moody_server, b"image", rate=500, most=40) as load:
        load.wait_for(40)
    assert len(load.answers) == 40
    assert failures(load.answers) == {"503: busy": 8}
    assert {one.said for one in load.answers if one.status == 200} == {"m@1"}
    with Steady("http://127.0.0.1:9/nobody", b"image", rate=500, most=3) as load:
        load.wait_for(3)
    assert [one.status for one in load.answers] == [0, 0, 0]


def test_what_a_bench_started_ends_with_all_that_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import processes

    monkeypatch.setattr(processes, "LEFT_S", 0.0)
    command = ["sh", "-c", "trap '' TERM; sleep 300 & sleep 300 & echo up; trap - TERM; wait"]
    with processes.Started(command, tmp_path / "log", {}) as started:
        while "up" not in started.said:
            assert started.lives
        pids = started.pids
        assert len(pids) == 3
        assert processes.total(started.memory()).rss >= processes.total(started.memory()).pss > 0
    assert not started.lives
    assert all(has_ended(pid) for pid in pids)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its new parent has not yet buried."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_the_page_on_scale_has_the_tables_that_its_program_prints() -> None:
    from scale_model import Assumptions, tables

    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    for table in tables(Assumptions()).split("\n\n"):
        assert table in page


def test_what_holds_up_a_training_moves_with_the_assumptions() -> None:
    from dataclasses import replace

    from scale_model import Assumptions, bounds

    usual = Assumptions()
    assert bounds(usual, 8, usual.gpu_finetune).least == ("gpus", 8 * usual.gpu_finetune)
    assert bounds(replace(usual, cores_per_node=8), 8, 1e9).least == ("decode", 8 * 550)
    one_by_one = replace(usual, block_bytes=usual.image_bytes)
    assert bounds(one_by_one, 8, usual.gpu_finetune).least == ("s3_requests", 5500)
