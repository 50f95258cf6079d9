"""Networks and servers as they are: bodies break off, writes meet, writers have no end."""

import errno
import json
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import commands
from colours import colour_spec, draw_colours
from cutting_proxy import CuttingProxy, cutting
from graft.activations.lease import LeaseTerms, hold_lease
from graft.cluster.job_attempts import begin_attempt
from graft.cluster.job_records import submit_job
from graft.errors import TRY_LATER, ObjectChanged, ObjectExists, StoreError, StoreLost
from graft.spec import dump_job
from graft.store import ObjectRef, Store, node_cache, retries, sha256
from graft.store.directory import Directory
from graft.store.retries import TRIES, persist
from graft.training.attempt_pointer import claim_attempt

MB = 1 << 20


def contents(store: Store, ref: ObjectRef) -> bytes:
    file = store.open_file("a", ref)
    assert file is not None
    with file:
        return file.read()


@pytest.fixture
def proxy(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    """Return a proxy in front of the S3 server, which cuts nothing yet."""
    with cutting(os.environ["AWS_ENDPOINT_URL"], 0, 2 * MB) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.slow
def test_a_body_that_breaks_off_is_read_on(
    proxy: CuttingProxy, s3_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    data = random.Random(1).randbytes(6 * MB)
    ref = Store.open(s3_store_uri).put("a", "x", data)
    proxy.share = 1
    for read in (
        lambda store: store.get("a", ref),
        lambda store: store.read_range(f"a/{ref.name}", MB, 4 * MB),
        lambda store: contents(store, ref),
    ):
        before = proxy.cuts
        assert read(Store.open(s3_store_uri)) in (data, data[MB : 5 * MB])
        assert proxy.cuts > before + 1


@pytest.mark.slow  # two CPU seconds
def test_an_object_that_changed_meanwhile_is_read_anew(
    proxy: CuttingProxy, s3_store_uri: str
) -> None:
    store, direct = Store.open(s3_store_uri), [bytes([n]) * (3 * MB) for n in range(40)]
    store.write("pointer", direct[0])
    ended = threading.Event()

    def overwrite() -> None:
        while not ended.is_set():
            store.write("pointer", random.choice(direct))

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        proxy.share = 0.7
        for _ in range(5):
            assert Store.open(s3_store_uri).read("pointer").data in direct
    finally:
        ended.set()
        writer.join()


# Half a header is half a time zone.
@pytest.mark.filterwarnings("ignore::dateutil.parser.UnknownTimezoneWarning")
def test_a_body_that_always_breaks_off_is_an_error(
    proxy: CuttingProxy, s3_store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(s3_store_uri)
    store.write("a", bytes(MB))
    proxy.share, proxy.span = 1, 300  # none comes to its body
    monkeypatch.setattr(retries, "LONGEST_PAUSE_S", 0.001)
    with pytest.raises(StoreError, match=r"broke off each time|cannot be reached") as error:
        Store.open(s3_store_uri).read("a")
    assert error.value.exit_code == TRY_LATER


def serve(codes: list[int]) -> HTTPServer:
    """Return an S3 endpoint that answers PUTs with these codes, and then with 200."""
    errors = {409: "ConditionalRequestConflict", 408: "TooSlow"}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            code = codes.pop(0) if codes else 200
            error = errors.get(code, "PreconditionFailed")
            body = b"" if code == 200 else f"<Error><Code>{error}</Code></Error>".encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return HTTPServer(("127.0.0.1", 0), Handler)


@pytest.mark.usefixtures("s3_server")
def test_a_condition_that_aws_could_not_decide_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    with serve(codes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        store = Store.open("s3://bucket")
        writes: list[Callable[[], None]] = [
            lambda: store.create("a", b""),
            lambda: store.replace("a", b"", "tag"),
        ]
        for write in writes:
            codes[:] = [409, 409]
            write()
            assert codes == []
            monkeypatch.setattr(retries, "LONGEST_PAUSE_S", 0.001)
            codes[:] = [409] * 2 * TRIES
            with pytest.raises(StoreError, match="another write was always under way") as error:
                write()
            assert not isinstance(error.value, ObjectExists | ObjectChanged)
        server.shutdown()


@pytest.mark.usefixtures("s3_server")
def test_an_endpoint_that_cannot_answer_just_now_is_asked_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve([408]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        store = Store.open("s3://bucket")
        with pytest.raises(StoreLost, match="answered TooSlow; try again later") as error:
            store.write("a", b"")
        assert error.value.exit_code == TRY_LATER
        server.shutdown()


def test_a_file_system_whose_server_is_away_is_asked_again_later(tmp_path: Path) -> None:
    class Away(Directory):
        def _path(self, key: str) -> Path:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with pytest.raises(StoreLost, match=r"does not answer .*; try again later"):
        Away(tmp_path).read("a")


class NeverHolds(Directory):
    """A storage whose conditional writes always say that another was first."""

    tried = 0

    def create(self, key: str, data: bytes) -> None:
        if not key.endswith(("latest", "head.json", "job.json", "lease.json")):
            super().create(key, data)
            return
        self.tried += 1
        raise ObjectExists(key)

    def replace(self, key: str, data: bytes, etag: str) -> None:
        self.tried += 1
        raise ObjectChanged(key)


@pytest.mark.parametrize(
    "swap",
    [
        lambda store: store.point("latest", uuid.uuid4().bytes),
        lambda store: claim_attempt(store, "runs/run"),
        lambda store: begin_attempt(store, "job", "finetune"),
        lambda store: hold_lease(store, "lease.json", LeaseTerms(expiry_s=0)).__enter__(),
    ],
)
@pytest.mark.parametrize("present", [True, False])
def test_a_swap_that_never_holds_ends_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swap: Callable[[Store], object],
    present: bool,
) -> None:
    monkeypatch.setattr(retries, "LONGEST_PAUSE_S", 0.001)
    if present:
        Store.open(str(tmp_path)).point("latest", b"1")
        claim_attempt(Store.open(str(tmp_path)), "runs/run")
        submit_job(Store.open(str(tmp_path)), "job", "")
        begin_attempt(Store.open(str(tmp_path)), "job", "finetune")
        holder = {"owner": "dead", "host": "elsewhere", "process": 1}
        Store.open(str(tmp_path)).write("lease.json", json.dumps(holder).encode())
    backend = NeverHolds(tmp_path)
    with pytest.raises(StoreError, match="`graft store check` finds out") as error:
        swap(Store(backend))
    assert error.value.exit_code == 2
    assert 0 < backend.tried <= 3 * TRIES


def test_what_a_store_fails_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    outcomes: list[Exception | int] = [StoreError("first"), StoreError("second"), 3]

    def work() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert persist(work) == 3
    outcomes[:] = [StoreError(name) for name in "abc"]
    with pytest.raises(StoreError, match="c"):
        persist(work)
    outcomes[:] = [ValueError("not the store's"), 1]
    with pytest.raises(ValueError, match="not the store's"):
        persist(work)


def test_a_file_system_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(StoreError, match="has no hard links, by which") as error:
        Store.open(str(tmp_path)).create("a", b"")
    assert "permission denied" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.write("a", b"1")

    def flock(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StoreError, match=r"store/a: its file system has no file locks \("):
        store.replace("a", b"2", store.read("a").etag)
    ref = ObjectRef(name="x", size=1, sha256=sha256(b"1"))
    with pytest.raises(StoreError, match=r"cache/.*: its file system has no file locks \("):
        node_cache.open_copy(ref, lambda file: None)
    assert store.read("a").data == b"1"


@pytest.mark.nightly
def test_an_import_and_a_sweep_end_right_where_one_connection_in_fifty_is_cut(
    proxy: CuttingProxy, s3_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFT_STORE", s3_store_uri)
    source = draw_colours(tmp_path / "images", 534, 133)
    bucket = Store.open(s3_store_uri)
    files = [file for file in source.rglob("*") if file.is_file()]
    for file in files:
        bucket.write(f"source/{file.relative_to(source)}", file.read_bytes())
    base = colour_spec(backbone__arch="timm/test_resnet", register=None, train__epochs=2)
    lines = dump_job(base).splitlines()
    rates = [10 ** -(1 + place / 4) for place in range(8)]
    (tmp_path / "sweep.yaml").write_text(
        f"kind: sweep\nname: cut\nsearch: {{kind: grid}}\nscheduler: {{kind: none}}\n"
        f"space: {{backbone.freeze: {{choice: [all, -1, 0]}}, "
        f"train.optimizer.lr: {{choice: {rates}}}}}\nbase:\n"
        + "".join(f"  {line}\n" for line in lines)
    )
    proxy.share, proxy.span = 1 / 50, 1500  # within an image, or a marker
    words = ["data", "import", f"{s3_store_uri}/source", "--name", "colours", "--json"]
    imported = commands.graft(*words)
    assert json.loads(imported.stdout)["images"] == len(files) == 2001, imported.stderr
    cut, proxy.share = proxy.cuts, 1 / 10  # a sweep has fewer requests
    swept = commands.graft("sweep", str(tmp_path / "sweep.yaml"), "--json")
    assert json.loads(swept.stdout)["states"] == {"finished": 24}, swept.stderr
    print(f"cut while importing: {cut}; while sweeping: {proxy.cuts - cut}")
    assert cut > 10
    assert proxy.cuts - cut > 5
