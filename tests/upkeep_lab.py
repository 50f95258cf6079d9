"""Stores from objects, and model versions of a few bytes, committed as training commits one."""

import contextlib
import json
from pathlib import Path

from graft.errors import ObjectExists
from graft.registry import Lineage, ModelDraft, ModelVersion, register
from graft.spec import Contract, LinearHead
from graft.store import Store
from graft.upkeep.contents import Contents


def fill(store: Store, objects: dict[str, bytes]) -> Store:
    """Put objects into a store; on a disk without waiting for it, which is most of the time."""
    for key, data in objects.items():
        if store.is_directory:
            path = Path(store.uri, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        else:
            store.write(key, data)
    return store


def commit_version(store: Store, name: str, stage: str, number: int) -> ModelVersion:
    """Commit a version whose trunk is one stage, as `publish_stages` and `register` do."""
    folder = f"stages/{stage}"
    store.rely_on([f"{folder}/"])
    if not store.exists(f"{folder}/stage.json"):
        weights = store.put(folder, "weights.safetensors", stage.encode())
        record = {"arch": "a", "stage": "s", "previous": 64 * "0", "weights": weights.model_dump()}
        with contextlib.suppress(ObjectExists):
            store.create(f"{folder}/stage.json", json.dumps(record).encode())
    lineage = Lineage(
        run=f"run-{number}",
        dataset="colours",
        dataset_version="v1",
        spec={},
        weights="none",
        weights_sha256=None,
        packages={},
        git_commit=None,
    )
    draft = ModelDraft(
        name=name,
        arch="a",
        head=LinearHead(),
        dropout=None,
        classes=("a", "b"),
        contract=Contract(resize=40, crop=32, max_side=48),
        freeze=1,
        stages=(stage,),
        trunk_digest=stage,
        metrics={},
        weights="last",
        epoch=1,
        lineage=lineage,
    )
    return register(store, draft, b"tail %d" % (number % 2), b"golden")


def missing(store: Store) -> list[str]:
    """Return what documents of a store refer to, and is not there."""
    contents = Contents.of(store)
    referred = [(key, ref.key) for key in contents.entries for ref in contents.references(key)]
    lost = [(key, needed) for key, needed in referred if needed not in contents.entries]
    # Since the listing, a writer may have written what is needed, or removed what refers to it.
    lost = [(key, needed) for key, needed in lost if not store.exists(needed)]
    return [f"{key} -> {needed}" for key, needed in lost if store.exists(key)]
