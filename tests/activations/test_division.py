"""What filling the cache takes of a bucket's requests, said before and counted."""

from collections import Counter
from pathlib import Path

import pytest

from activations_lab import Lab
from graft.activations.division import fill_requests
from graft.activations.key import CacheEntry
from graft.store import Store
from graft.store.requests import Requests, get_requests, list_requests, put_requests
from graft.store.s3 import PART_SIZE
from s3_requests import charged, counted


@pytest.fixture
def store(s3_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return Store.open(s3_store_uri)


@pytest.mark.parametrize("task_images", [2048, 8])
def test_a_bucket_is_sent_what_was_forecast(lab: Lab, task_images: int) -> None:
    for split in ("train", "val"):
        for image in lab.dataset.images(split):
            lab.dataset.read(image)  # what the node has is read from it
    forecast, operations = Requests(), Counter[str]()
    for entry in (CacheEntry("train", 2, 5), CacheEntry("val", 0, 5)):
        with counted(lab.store) as requests:
            filled = lab.get(entry, task_images=task_images)
        operations += requests
        row_bytes = filled.nbytes // len(filled)
        forecast += fill_requests(len(filled), row_bytes, entry.depth - 1, task_images)
    print(forecast, operations)
    sent = charged(operations)
    assert forecast.writes == pytest.approx(sent.writes, rel=0.2)
    assert forecast.reads == pytest.approx(sent.reads, rel=0.2)


def test_payloads_are_sent_and_read_in_as_many_requests_as_is_said(store: Store) -> None:
    for size in (1, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE):
        content = size.to_bytes(8, "big").ljust(size, b"\0")[:size]
        with counted(store) as requests:
            ref = store.put("a", "b", content)
        assert charged(requests) == Requests(put_requests(size), 0), size
        with counted(store) as requests:
            file = store.open_file("a", ref)
        assert file
        file.close()
        assert charged(requests) == Requests(0, get_requests(size)), size
    assert [list_requests(keys) for keys in (0, 1, 1000, 1001)] == [1, 1, 1, 2]
