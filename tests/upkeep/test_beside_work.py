"""`graft gc` beside trainings and imports: ten rounds, and nothing that anything needs goes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from colours import colour_spec, draw_colours, new_run
from graft.backbones.trunk import load_model
from graft.data.importing import import_dataset
from graft.data.manifest import list_datasets, open_dataset
from graft.data.removing import remove_version
from graft.registry import get_model, list_models
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.run_records import list_run_rows, read_result
from graft.training.worker_group import Ranks
from graft.upkeep.collecting import collect, survey
from graft.upkeep.policy import Policy
from graft.upkeep.removing import check_version, remove_model_version, remove_run
from upkeep_lab import missing

ROUNDS = 10
GRACE_S = 6
"""Longer than a step from a payload to its marker takes here."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_that_is_needed_goes(fencing_store: Store, tmp_path: Path, alone: Ranks) -> None:
    store = fencing_store
    import_dataset(store, str(draw_colours(tmp_path / "images", 4, 2)), "colours")
    backbone = {"arch": "timm/test_resnet", "weights": "none", "freeze": "all"}
    ended, failures = threading.Event(), list[BaseException]()

    def beside(work: Callable[[int], object]) -> threading.Thread:
        def repeat() -> None:
            number = 0
            try:
                while not ended.is_set():
                    number += 1
                    work(number)
            except BaseException as error:  # told by the test, not by its thread
                failures.append(error)

        thread = threading.Thread(target=repeat)
        thread.start()
        return thread

    def train(number: int) -> None:
        spec = colour_spec(
            backbone=backbone,
            cache="on",
            augment={"kind": "none"},
            train__epochs=2,
            train__seed=number % 3,  # the same stages and activations, again and again
            preprocess={"resize": 36, "crop": 32 - 2 * (number % 3)},
        )
        run = new_run(store, spec)
        run_attempt(store, run, alone, lambda event: None, time.time())
        load_model(store, get_model(store, "colours"))
        if number % 2:  # what it leaves is garbage
            version = get_model(store, "colours")
            check_version(store, version, force=False)
            remove_model_version(store, version, "test")
            remove_run(store, run)

    def add(number: int) -> None:
        more = draw_colours(tmp_path / f"more-{number}", 1, 1, seed=number)
        imported = import_dataset(store, str(more), "extra")
        version = open_dataset(store, "extra", imported.manifest.version)
        assert [version.read(image) for image in version.images("train")]
        if number % 2:
            remove_version(store, "extra", imported.manifest.version)
        time.sleep(0.5)

    threads = [beside(train), beside(add)]
    policy, removed = Policy(grace=f"{GRACE_S}s"), 0
    for _ in range(ROUNDS):
        removed += len(collect(store, policy, lambda done, total: None).removed)
        assert missing(store) == []
        time.sleep(GRACE_S / 2)
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert removed > 20
    time.sleep(GRACE_S)
    at_once = Policy(grace="0s")
    collect(store, at_once, lambda done, total: None)
    assert survey(store, at_once).garbage == ()
    assert missing(store) == []
    for manifest in list_datasets(store):
        dataset = open_dataset(store, manifest.name, manifest.version)
        assert [dataset.read(image) for image in dataset.images("val")]
    for name, rows in list_models(store).items():
        for row in rows:
            load_model(store, get_model(store, f"{name}@{row.version}"))
    assert all(read_result(store, row.run) for row in list_run_rows(store))
