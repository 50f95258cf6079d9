"""What is read of a marker or a pointer, and how one that cannot be read is explained."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel

from graft import __version__
from graft.errors import ObjectNotFound, StoreError
from graft.store import (
    Marker,
    Store,
    document_bytes,
    find_document,
    parse_document,
    read_document,
    read_text,
)


class Pointer(BaseModel):
    attempt: int
    token: str


class Version(Marker):
    number: int

    @property
    def folder(self) -> str:
        return f"versions/{self.number}"


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


class Second(Pointer):
    FORMAT: ClassVar[int] = 2


def test_a_document_carries_its_format_and_earlier_ones_are_read(directory: Store) -> None:
    written = Second(attempt=2, token="x")
    for compact in (False, True):
        directory.write("a/head.json", document_bytes(written, compact))
        content = json.loads(directory.read("a/head.json").data)
        assert content == {"format": 2, "release": __version__, **written.model_dump()}
        assert read_document(directory, "a/head.json", Second) == written
    for earlier in ({}, {"format": 1}, {"format": 1, "release": "0.0.1"}):
        directory.write("a/head.json", json.dumps(earlier | written.model_dump()).encode())
        assert read_document(directory, "a/head.json", Second) == written


@pytest.mark.parametrize(
    ("release", "advice"),
    [
        ("0.9.1", "Install Graft 0.9.1, or newer"),
        ("\x1b[2J", "Install a newer one"),
        (3, "a newer"),
    ],
)
def test_a_newer_document_is_refused_with_the_release_to_install(
    directory: Store, release: object, advice: str
) -> None:
    content = {"format": 3, "release": release, "attempt": 1, "token": "x", "more": 1}
    directory.write("a/head.json", json.dumps(content).encode())
    with pytest.raises(StoreError) as error:
        read_document(directory, "a/head.json", Second)
    message = str(error.value)
    assert f"is in format 3; this is Graft {__version__}, which reads up to format 2" in message
    assert advice in message
    assert "damaged" not in message


def test_a_marker_of_another_folder_is_refused(directory: Store) -> None:
    for number in (1, 2):
        directory.write(f"versions/{number}/model.json", b'{"number": 2}')
    assert read_document(directory, "versions/2/model.json", Version).folder == "versions/2"
    with pytest.raises(StoreError, match="is the marker of versions/2, not of its own folder"):
        read_document(directory, "versions/1/model.json", Version)


def test_bytes_that_are_no_text_are_damage(directory: Store) -> None:
    directory.write("a/latest", b"\xff")
    with pytest.raises(StoreError, match="a/latest is damaged: it is no UTF-8 text"):
        read_text(directory, "a/latest")
