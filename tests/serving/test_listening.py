"""What commands listen at: 127.0.0.1 alone, and to nobody without the token of their Ray."""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from colours import colour_spec, draw_colours
from commands import GRAFT
from graft.data.importing import import_dataset
from graft.registry import ModelVersion
from graft.spec import dump_job
from graft.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MARK = "GRAFT_TEST_MARK"


@dataclass(frozen=True, order=True)
class Listener:
    """A socket that a process listens at."""

    program: str
    address: str
    port: int


def listeners(mark: str) -> list[Listener]:
    """Return the sockets of all processes that have this mark in their environment."""
    programs: dict[str, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                continue
            name = (process / "comm").read_text().strip()
            for descriptor in (process / "fd").iterdir():
                programs[os.readlink(descriptor)] = name
        except OSError:
            continue  # it has ended
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            program = programs.get(f"socket:[{rest[5]}]")
            if program and state == "0A":
                address, port = local.split(":")
                found.add(Listener(program, readable(address), int(port, 16)))
    return sorted(found)


def readable(address: str) -> str:
    """Return an address as people write it; Linux writes words of four bytes, the last first."""
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    parsed = ipaddress.ip_address(b"".join(words))
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


class Command:
    """A `graft` that runs, and what it says."""

    def __init__(self, store: Path, *words: str | Path, host: str | None = None):
        self.mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
        self.environment = environment | {MARK: self.mark, "GRAFT_STORE": str(store)}
        self.process = subprocess.Popen(
            [str(GRAFT), *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=120)
        finally:
            self.process.kill()

    def until(self, word: str) -> None:
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(line)
            if word in line:
                return
        raise AssertionError("".join(said))

    def token(self) -> str:
        """The token of its Ray, which its user alone can read."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            values = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
            if values.get(MARK.encode()) == self.mark.encode() and b"RAY_AUTH_TOKEN" in values:
                return values[b"RAY_AUTH_TOKEN"].decode()
        raise AssertionError("no process of it has a token")


def other_addresses() -> list[str]:
    """Addresses of this machine that are not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return []
        return [probe.getsockname()[0]]


@pytest.fixture(scope="module")
def imported_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store that holds the dataset `colours`."""
    folder = tmp_path_factory.mktemp("colours")
    images = draw_colours(folder / "images")
    import_dataset(Store.open(str(folder / "store")), str(images), "colours", test_fraction=0)
    return folder / "store"


@pytest.fixture(scope="module")
def one_model(
    tmp_path_factory: pytest.TempPathFactory, register_model: Callable[..., ModelVersion]
) -> Path:
    """The folder of a store that has a version of `ants-bees`."""
    folder = tmp_path_factory.mktemp("listening") / "store"
    register_model(Store.open(str(folder)))
    return folder


@pytest.fixture
def job(imported_colours: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(colour_spec(train__epochs=500, backbone__arch="timm/test_resnet")))
    return path


def test_nobody_reaches_what_train_starts(imported_colours: Path, job: Path) -> None:
    with Command(imported_colours, "train", job) as train:
        train.until("epoch 1/")
        sockets = listeners(train.mark)
        print(*sockets, sep="\n")
        assert {"gcs_server", "raylet"} <= {one.program for one in sockets}
        assert {one.address for one in sockets} == {"127.0.0.1"}
        for address in other_addresses():
            for one in sockets:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((address, one.port), 5).close()
        (gcs,) = {one.port for one in sockets if one.program == "gcs_server"}
        environment = train.environment | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_ADDRESS": f"127.0.0.1:{gcs}",
            "RAY_AUTH_MODE": "token",
        }
        tokens = [{"RAY_AUTH_TOKEN": token} for token in ("0" * 64, train.token())]
        with ThreadPoolExecutor(2) as pool:
            stranger, own = pool.map(lambda token: joined(environment | token), tokens)
        assert "refused" in stranger
        assert "joined" in own


@pytest.mark.nightly  # on every commit: what `train` and `serve` open
@pytest.mark.parametrize("command", ["sweep", "demo"])
def test_nothing_is_open_from_start_to_end(
    imported_colours: Path, tmp_path: Path, command: str
) -> None:
    store, words = tmp_path / "store", ["demo"]
    if command == "sweep":
        base = colour_spec(train__epochs=2, backbone__arch="timm/test_resnet", register=None)
        path = tmp_path / "sweep.yaml"
        sweep = {
            "kind": "sweep",
            "name": "rates",
            "base": base.model_dump(mode="json", by_alias=True),
            "space": {"train.optimizer.lr": {"choice": [0.001, 0.01]}},
            "search": {"kind": "grid"},
        }
        path.write_text(json.dumps(sweep))
        store, words = imported_colours, ["sweep", str(path)]
    with Command(store, *words) as started, ThreadPoolExecutor(1) as pool:
        said = pool.submit(started.process.communicate)
        sockets: set[Listener] = set()
        while not said.done():
            sockets |= set(listeners(started.mark))
            time.sleep(0.3)
        assert started.process.returncode == 0, said.result()
    print(*sorted(sockets), sep="\n")
    assert {"gcs_server", "raylet", *(["haproxy"] if command == "demo" else [])} <= {
        one.program for one in sockets
    }
    assert {one.address for one in sockets} == {"127.0.0.1"}


def joined(environment: dict[str, str]) -> str:
    """Have a process try to join a Ray, submit a task and call it."""
    program = (
        "import ray\n"
        "try:\n"
        "    ray.init(logging_level=50)\n"
        "    assert ray.get(ray.remote(num_cpus=0)(lambda: 7).remote(), timeout=60) == 7\n"
        "except Exception as error:\n"
        "    print('refused', type(error).__name__, error)\n"
        "else:\n"
        "    print('joined')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    return done.stdout + ("" if done.stdout else f"refused: {done.stderr}")


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("127.0.0.1", marks=pytest.mark.nightly)])
def test_a_served_model_alone_is_where_host_says(one_model: Path, host: str) -> None:
    with Command(
        one_model, "serve", "ants-bees@1", "--port", "0", "--json", "--host", host, "--no-auth"
    ) as served:
        served.until('"url"')
        sockets = listeners(served.mark)
        print(*sockets, sep="\n")
        elsewhere = {one.program for one in sockets if one.address != "127.0.0.1"}
        assert elsewhere == ({"haproxy"} if host != "127.0.0.1" else set())
        assert sum(one.address != "127.0.0.1" for one in sockets) == (host != "127.0.0.1")
