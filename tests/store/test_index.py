"""Index objects: they save reading markers, and are never believed more than a listing."""

import pytest

from graft.errors import StoreError
from graft.spec import Section
from graft.store import Store
from graft.store.directory import Directory
from graft.store.index import indexed_rows

KEY = "things/index.json"


class Row(Section):
    name: str


class Lab:
    """Markers that can be listed, and a count of how often each was read."""

    def __init__(self, store: Store):
        self.store, self.read = store, []
        self.unfinished: set[str] = set()

    def list(self, *names: str) -> list[str]:
        rows = indexed_rows(self.store, KEY, Row, names, self._make, self._settled)
        return [row.name for row in rows.values()]

    def _make(self, name: str) -> Row | None:
        self.read.append(name)
        return None if name == "gone" else Row(name=name)

    def _settled(self, row: Row) -> bool:
        return row.name not in self.unfinished


@pytest.fixture
def lab(store: Store) -> Lab:
    return Lab(store)


def test_a_marker_is_read_once(lab: Lab) -> None:
    assert lab.list("b", "a") == ["b", "a"]
    assert lab.list("a", "b", "c") == ["a", "b", "c"]
    assert lab.list("c", "a") == ["c", "a"]  # one was removed
    assert sorted(lab.read) == ["a", "b", "c"]


def test_what_may_change_is_read_each_time(lab: Lab) -> None:
    lab.unfinished = {"b"}
    assert [lab.list("b", "gone", "a") for _ in range(2)] == [["b", "a"], ["b", "a"]]
    lab.unfinished = set()
    assert [lab.list("a", "b") for _ in range(2)] == [["a", "b"], ["a", "b"]]
    assert sorted(lab.read) == ["a", "b", "b", "b", "gone", "gone"]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"format": 2, "rows": {}}', b'{"format": 1, "rows": {"a": {"other": 1}}}'],
)
def test_an_index_that_cannot_be_read_is_made_again(lab: Lab, data: bytes) -> None:
    lab.store.write(KEY, data)
    assert [lab.list("a", "b") for _ in range(2)] == [["a", "b"], ["a", "b"]]
    assert sorted(lab.read) == ["a", "b"]


def test_who_may_only_read_can_list(tmp_path) -> None:
    class ReadOnly(Directory):
        def create(self, key, data):
            raise StoreError(f"{key}: permission denied")

    lab = Lab(Store(ReadOnly(tmp_path)))
    assert [lab.list("a") for _ in range(2)] == [["a"], ["a"]]
    assert lab.read == ["a", "a"]


def test_a_damaged_marker_is_not_left_out(store: Store) -> None:
    def make(name: str) -> Row:
        raise StoreError(f"{name} is damaged")

    with pytest.raises(StoreError, match="b is damaged"):
        indexed_rows(store, KEY, Row, ["b"], make)
