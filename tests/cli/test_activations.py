"""`graft activations`: list and remove."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import commands
from activations_lab import Lab, make_lab
from colours import draw_colours
from graft.activations.key import CacheEntry
from graft.backbones.trunk import publish_stages
from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.store import Store


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A store with activations of two depths."""
    torch.set_num_threads(1)
    store = Store.open(str(tmp_path / "store"))
    import_dataset(store, str(draw_colours(tmp_path / "images")), "colours", test_fraction=0)
    lab = make_lab(store, open_dataset(store, "colours"))
    publish_stages(store, lab.model, lab.chain)
    lab.fill(CacheEntry("train", 1, 3), CacheEntry("val", 0, 3), CacheEntry("val", 0, 5))
    return lab


def activations(uri: str, *arguments: str) -> commands.Done:
    return commands.main("activations", *arguments, "--store", uri)


def document(uri: str, *arguments: str) -> Any:
    done = activations(uri, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    assert document(str(tmp_path), "ls") == {"activations": [], "bytes": 0}
    refused = activations(str(tmp_path), "rm", "ab")
    assert refused.returncode == 2
    assert refused.stderr.startswith("graft: no activations of a trunk 'ab'")
    assert refused.stderr.count("\n") == 1


def test_ls_and_rm(lab: Lab) -> None:
    uri, trunk = lab.store.uri, lab.chain.digests[3]
    listed = document(uri, "ls")
    rows = {(row["trunk"], row["view"]): row for row in listed["activations"]}
    row = rows[trunk, "v0"]
    assert (row["arch"], row["stage"]) == ("squeezenet1_1", lab.model.stages.names[2])
    assert (row["images"], row["dtype"]) == (15, "float32")
    assert row["datasets"] == [f"{lab.dataset.manifest.ref}/val"]
    assert listed["bytes"] == sum(row["bytes"] for row in listed["activations"])
    table = activations(uri, "ls").stdout
    assert trunk[:12] in table
    removed = document(uri, "rm", trunk[:8], "--view", "v0")
    assert (removed["trunk"], removed["views"]) == (trunk, ["v0"])
    assert removed["bytes"] > row["bytes"]
    done = activations(uri, "rm", trunk)
    assert done.stdout.startswith(f"{trunk[:12]}: removed v1-")
    assert [row["trunk"] for row in document(uri, "ls")["activations"]] == [lab.chain.digests[5]]
