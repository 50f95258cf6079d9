"""What can be wrong with a store: one line each, in bounded time."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.errors import TRY_LATER, InputError, ObjectNotFound, StoreError
from graft.store import Store


@pytest.mark.parametrize("uri", ["s3://", "s3:///prefix", "gs://bucket", "http://host/bucket"])
def test_a_uri_of_no_store(uri: str) -> None:
    with pytest.raises(InputError, match="expected s3://bucket/prefix"):
        Store.open(uri)


def every_use(store: Store) -> Iterator[Callable[[], object]]:
    yield lambda: store.read("a")
    yield lambda: store.exists("a")
    yield lambda: list(store.scan(""))
    yield lambda: store.children("a/")
    yield lambda: store.write("a", b"")
    yield lambda: store.create("a", b"")
    yield lambda: store.put("a", "x", Path(__file__))


def one_line(error: pytest.ExceptionInfo[StoreError], exit_code: int = 2) -> str:
    assert error.value.exit_code == exit_code
    assert not isinstance(error.value, ObjectNotFound)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("s3_server")
def test_a_missing_bucket() -> None:
    store = Store.open("s3://graft-no-such-bucket/prefix")
    for use in every_use(store):
        with pytest.raises(StoreError) as error:
            use()
        assert "bucket 'graft-no-such-bucket' does not exist" in one_line(error)


@pytest.mark.usefixtures("s3_server")
def test_an_impossible_bucket() -> None:
    with pytest.raises(StoreError) as error:
        Store.open("s3://Not_A_Bucket!/prefix").read("a")
    assert "'Not_A_Bucket!' cannot be a bucket's name" in one_line(error)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    s3_store_uri: str, s3_server: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not s3_server.fences:
        pytest.skip("moto takes any credentials")
    monkeypatch.setenv(name, "wrong")
    for use in every_use(Store.open(s3_store_uri)):
        with pytest.raises(StoreError) as error:
            use()
        assert "credentials were refused" in one_line(error)


def test_no_credentials(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError) as error:
        Store.open(s3_store_uri).read("a")
    assert "no credentials found; set AWS_ACCESS_KEY_ID" in one_line(error)


def read_unreachable(uri: str) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(uri).read("a")
    assert "cannot be reached" in one_line(error, TRY_LATER)


def test_an_endpoint_where_nobody_listens(
    s3_store_uri: str, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nobody}")
    read_unreachable(s3_store_uri)


@pytest.mark.slow
@pytest.mark.timeout(150)  # boto3 of itself would try for five minutes
def test_an_endpoint_that_drops_packets(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server, contextlib.ExitStack() as filled:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # a full queue: the kernel drops what comes after
            client = filled.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        read_unreachable(s3_store_uri)


@pytest.mark.slow
def test_an_endpoint_with_a_ca_of_its_own(
    start_minio: Callable[..., contextlib.AbstractContextManager[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_certificate(tmp_path)
    with start_minio(tmp_path / "data", tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError) as error:
            Store.open("s3://bucket").read("a")
        assert "check AWS_ENDPOINT_URL, AWS_CA_BUNDLE" in one_line(error)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.crt"))
        with pytest.raises(StoreError, match="bucket 'bucket' does not exist"):
            Store.open("s3://bucket").read("a")


def make_certificate(folder: Path) -> None:
    """Write a CA (ca.crt) and a key pair for 127.0.0.1 that it signed, as MinIO names them."""
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=graft-ca"
        " -keyout ca.key -out ca.crt",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1"
        " -addext subjectAltName=IP:127.0.0.1 -keyout private.key -out server.csr",
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -copy_extensions copy"
        " -out public.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def test_a_file_where_the_store_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="is a file; expected a directory"):
        Store.open(str(tmp_path / "file"))
    with pytest.raises(StoreError, match="Not a directory") as error:
        Store.open(str(tmp_path / "file" / "store")).write("a", b"")
    one_line(error)


def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.write("a", b"")
    (tmp_path / "store").chmod(0o000 if os.geteuid() else 0o700)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        for use in every_use(store):
            with pytest.raises(StoreError, match="permission denied") as error:
                use()
            one_line(error)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "store").chmod(0o700)


def test_a_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk to fill")
    try:
        store = Store.open(str(tmp_path))
        with pytest.raises(StoreError, match="no space left; nothing was committed") as error:
            store.put("a", "x", bytes(2 << 20))
        one_line(error)
        assert list(store.scan("")) == []
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
