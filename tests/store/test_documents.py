"""What is read of a marker or a pointer, and how one that cannot be read is explained."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from graft.errors import ObjectNotFound, StoreError
from graft.store import Store, find_document, parse_document, read_document


class Pointer(BaseModel):
    attempt: int
    token: str


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_a_document_is_read_found_and_parsed(directory: Store) -> None:
    pointer = Pointer(attempt=2, token="x")
    directory.write("a/head.json", pointer.model_dump_json().encode())
    assert read_document(directory, "a/head.json", Pointer) == pointer
    assert find_document(directory, "a/head.json", Pointer) == pointer
    data = directory.read("a/head.json").data
    assert parse_document(directory, "a/head.json", data, Pointer) == pointer


def test_no_document(directory: Store) -> None:
    assert find_document(directory, "a/head.json", Pointer) is None
    with pytest.raises(ObjectNotFound):
        read_document(directory, "a/head.json", Pointer)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"attempt": 1, "token', "(Invalid JSON: "),
        (b'{"attempt": 1}', "(token: Field required)"),
        (b"{}", "(attempt: Field required, and 1 more)"),
    ],
)
def test_one_that_cannot_be_read_is_explained_on_a_line(
    directory: Store, data: bytes, problem: str
) -> None:
    directory.write("a/head.json", data)
    with pytest.raises(StoreError) as error:
        find_document(directory, "a/head.json", Pointer)
    message = str(error.value)
    assert message.startswith(f"{directory.uri}/a/head.json cannot be read by this release")
    assert problem in message
    assert "; it is damaged, or a newer release wrote it" in message
    assert "\n" not in message
    with pytest.raises(StoreError, match="wrote it; remove it"):
        read_document(directory, "a/head.json", Pointer, advice="remove it")
