"""A run on a version whose images lie in shards of a version that was removed."""

from pathlib import Path

import pytest

from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.data.manifest import latest
from graft.data.removing import remove_version


@pytest.mark.slow  # a training
def test_a_child_is_trained_on_without_its_parent(colour_store, numbers_of, tmp_path: Path) -> None:
    parent = latest(colour_store, "colours")
    assert parent
    more = draw_colours(tmp_path / "more", train=2, val=1, seed=1)
    child = import_dataset(colour_store, str(more), "colours", add_to=parent).manifest
    remove_version(colour_store, "colours", parent)
    network = {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}
    numbers = numbers_of(colour_store, colour_spec(backbone=network, train__epochs=1))
    ((_, val),) = numbers.history
    assert child.counts["val"] == {"blue": 6, "green": 6, "red": 6}
    assert val["accuracy"] * 18 == pytest.approx(round(val["accuracy"] * 18))
