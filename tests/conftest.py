"""Real parts for the tests: stores on disk and on an S3 server.

The server is GRAFT_TEST_S3_ENDPOINT where that is set (with the standard AWS variables),
else MinIO, where `make programs` built one or the machine has one, else moto's, which does not
fence; the summary says which it was.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from graft.store import Store
from programs import VERSIONS, program

if TYPE_CHECKING:
    from graft.training.events import Event
    from graft.training.worker_group import Ranks

pytest_plugins = ["quality.cpu", "quality.scheduling"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun with & by a shell, and what the tests start would be deaf to Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Of two processes on two cores each has one: for torch, here and in what the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A race of engines takes half a minute; the tests of engines ask for one.
os.environ["GRAFT_ENGINE"] = "torch"

_built = program("minio")
MINIO = _built if _built.exists() else Path(shutil.which("minio") or _built)

ENDPOINT = os.environ.get("GRAFT_TEST_S3_ENDPOINT")
if ENDPOINT:
    SERVER = f"GRAFT_TEST_S3_ENDPOINT ({ENDPOINT})"
elif MINIO.exists():
    SERVER = f"MinIO {VERSIONS['MINIO']}" if MINIO is _built else str(MINIO)
else:
    SERVER = "moto, which does not fence; `make programs` builds MinIO where there is Go"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"S3 server of the tests: {SERVER}")


@dataclass(frozen=True)
class S3Server:
    environment: dict[str, str]
    fences: bool
    """Whether conditional writes are exclusive when writers race."""


StartMinio = Callable[..., AbstractContextManager[S3Server]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_server(
    start: Callable[[], tuple["subprocess.Popen[bytes]", str]], answers: Callable[[str], bool]
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server that cannot choose its port, and return it, and its URL, once it answers.

    Another process may take a free port before the server does: then it ends, and is started on
    another one.
    """
    for _ in range(3):
        server, url = start()
        deadline = time.monotonic() + 240
        while server.poll() is None:
            if answers(url):
                return server, url
            if time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise TimeoutError(f"{server.args} does not answer at {url}")
            time.sleep(0.05)
    raise RuntimeError(f"{server.args} ends with exit code {server.returncode}")


@contextlib.contextmanager
def run_minio(folder: Path, certificates: Path | None = None) -> Iterator[S3Server]:
    """Run MinIO with its data in `folder`; on TLS where `certificates` holds a key pair."""
    key, secret = "graft-tests", uuid.uuid4().hex

    def start() -> tuple[subprocess.Popen[bytes], str]:
        url = f"http{'s' if certificates else ''}://127.0.0.1:{free_port()}"
        address = url.partition("//")[2]
        server = subprocess.Popen(
            [MINIO, "server", folder, "--address", address, "--certs-dir", certificates or folder],
            env=os.environ
            | {"MINIO_ROOT_USER": key, "MINIO_ROOT_PASSWORD": secret}
            | {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return server, url

    def answers(url: str) -> bool:
        """Whether it is ours that answers: it knows our key."""
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            verify=False,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
        )
        with contextlib.suppress(BotoCoreError, ClientError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nobody has verified its certificate
            client.list_buckets()
            return True
        return False

    server, url = start_server(start, answers)
    try:
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }
        yield S3Server(environment, fences=True)
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def run_moto() -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "graft-tests",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    try:
        yield S3Server(environment, fences=False)
    finally:
        server.stop()


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's store, cache and profiles out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("GRAFT_STORE", raising=False)
        if not ENDPOINT:
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
                patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def start_minio() -> StartMinio:
    """Return `run_minio`, for a test that needs a server of its own."""
    if not MINIO.exists():
        pytest.skip("no MinIO here: `make programs` builds it where there is Go")
    return run_minio


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that the standard AWS variables of this process point at."""
    if ENDPOINT:
        running: AbstractContextManager[S3Server] = contextlib.nullcontext(
            S3Server({"AWS_ENDPOINT_URL": ENDPOINT}, fences=True)
        )
    elif MINIO.exists():
        running = run_minio(tmp_path_factory.mktemp("minio"))
    else:
        running = run_moto()
    with running as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server) -> Iterator[str]:
    name = f"graft-test-{uuid.uuid4().hex}"
    config = Config(s3={"addressing_style": "path"})
    # boto3's own session keeps credentials: of the first server, where a second try has another.
    session = boto3.session.Session(region_name="us-east-1")
    created = session.resource("s3", config=config).Bucket(name)
    created.create()
    yield name
    created.objects.all().delete()
    created.delete()


@pytest.fixture
def s3_store_uri(bucket: str) -> str:
    """URI of an empty store on the S3 server."""
    return f"s3://{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["directory", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty store, once a directory, once on S3."""
    if request.param == "directory":
        return str(tmp_path / "store")
    uri: str = request.getfixturevalue("s3_store_uri")
    return uri


@pytest.fixture
def store(store_uri: str) -> Store:
    """An empty store, once a directory, once on S3."""
    return Store.open(store_uri)


@pytest.fixture
def fencing_store(store: Store, request: pytest.FixtureRequest) -> Store:
    """As `store`, of which conditional writes are exclusive when writers race."""
    if not store.is_directory and not request.getfixturevalue("s3_server").fences:
        pytest.skip("moto's conditional writes are not exclusive under a race")
    return store


@pytest.fixture(scope="session")
def ray_cluster(s3_server: S3Server) -> Iterator[None]:
    """A local Ray for the whole session; its workers know the S3 server."""
    from graft.cluster.local_ray import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def ray_cluster_address(ray_cluster: None) -> str:
    """Where commands join that Ray: their RAY_ADDRESS."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


@pytest.fixture(scope="session")
def nobody() -> Iterator[str]:
    """HOST:PORT where nobody listens, and nobody can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(scope="session")
def alone() -> "Ranks":
    """This process as the only worker."""
    from graft.backbones.process_setup import set_up_process
    from graft.training.worker_group import Ranks

    return Ranks.alone(set_up_process(cpus=1))


@pytest.fixture
def train_alone(alone: "Ranks") -> "Callable[..., list[Event]]":
    """Return a function that runs an attempt in this process and returns its events."""
    from graft.training.attempt import run_attempt

    def train(
        store: Store, run: str, post: "Callable[[Event], object] | None" = None
    ) -> "list[Event]":
        events: list[Event] = []
        run_attempt(store, run, alone, post or events.append, time.time())
        return events

    return train
