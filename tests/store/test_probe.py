"""What `probe` finds in storages that keep their promises, and in ones that do not."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.errors import ObjectExists, StoreError
from graft.store import Store
from graft.store.directory import Directory
from graft.store.probe import probe


def failing(store: Store) -> dict[str, str]:
    return {finding.guarantee: finding.seen for finding in probe(store) if not finding.holds}


@pytest.mark.parametrize("store_uri", ["directory", "s3"], indirect=True)
@pytest.mark.slow  # 1,100 objects
def test_all_holds_on_a_directory_and_on_a_real_server(
    store: Store, request: pytest.FixtureRequest
) -> None:
    store.write("other", b"")
    findings = list(probe(store))
    assert len(findings) == 7
    for finding in findings:
        assert finding.holds or not finding.required, finding
    if store.is_directory or request.getfixturevalue("s3_server").fences:
        assert all(finding.holds for finding in findings)
    assert list(store.scan("")) == [("other", 0)]
    if store.is_directory:
        assert [path.name for path in Path(store.uri).iterdir()] == ["other"]


def test_a_storage_that_cannot_be_written_is_an_error(bucket: str) -> None:
    with pytest.raises(StoreError, match="bucket 'graft-no-such-bucket' does not exist"):
        next(probe(Store.open("s3://graft-no-such-bucket")))


class ChecksThenWrites(Directory):
    """Conditional writes as some servers make them."""

    def create(self, key: str, data: bytes) -> None:
        if self.size(key) is not None:
            raise ObjectExists(key)
        time.sleep(0.001)
        self.write(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> None:
        self.write(key, data)


class ListsOnePage(Directory):
    def scan(self, prefix: str, after: str = "") -> Iterator[tuple[str, int]]:
        yield from list(super().scan(prefix, after))[:1000]


class RefusesConditions(Directory):
    def replace(self, key: str, data: bytes, etag: str) -> None:
        raise StoreError(f"{key}: the endpoint answered NotImplemented")


@pytest.mark.parametrize(
    ("backend", "broken"),
    [
        pytest.param(
            ChecksThenWrites, {"exclusive create", "compare and swap"}, marks=pytest.mark.slow
        ),
        pytest.param(ListsOnePage, {"listing after write"}, marks=pytest.mark.slow),
        pytest.param(RefusesConditions, {"compare and swap"}, marks=pytest.mark.slow),
    ],
)
def test_a_broken_promise_is_found(
    tmp_path: Path, backend: type[Directory], broken: set[str]
) -> None:
    failed = failing(Store(backend(tmp_path)))
    assert set(failed) == broken
    if backend is RefusesConditions:
        assert "NotImplemented" in failed["compare and swap"]
