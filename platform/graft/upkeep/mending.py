"""Mending what can be made again: it is removed, documents first, and made when it is needed."""

import contextlib
from collections.abc import Iterable

from graft.data.manifest import list_versions, point_latest
from graft.errors import ObjectDamaged, StoreError
from graft.registry import list_models
from graft.report.publishing import list_reports
from graft.store import Store
from graft.sweep.sweep_list import list_sweep_rows
from graft.sweep.sweep_records import read_trials
from graft.training.run_records import list_run_rows
from graft.upkeep.contents import Contents
from graft.upkeep.damage import Damage, Mend


def mend(store: Store, damages: Iterable[Damage]) -> list[str]:
    """Make damaged objects again that can be, or remove them for whoever needs them to do so.

    Returns the keys of those that are mended.

    Raises:
        StoreError: the store cannot be written.
    """
    mendable = [damage for damage in damages if damage.mend]
    anew = {d.key for d in mendable if d.mend in (Mend.ACTIVATIONS, Mend.ENGINE)}
    if anew:
        _remove_referring(store, anew)
    for damage in mendable:
        if damage.mend is Mend.LATEST:
            _point_latest(store, damage.key)
            continue
        store.delete(damage.key)
        if damage.mend is Mend.INDEX:
            _list_again(store, damage.key)
    return [damage.key for damage in mendable]


def _remove_referring(store: Store, keys: set[str]) -> None:
    """Remove the documents that refer to payloads, and are of no use without them."""
    contents = Contents.of(store)
    for document in (*contents.below("activations/"), *contents.below("exports/")):
        if not keys.isdisjoint(reference.key for reference in contents.references(document)):
            store.delete(document)


def _point_latest(store: Store, key: str) -> None:
    name = key.split("/")[1]
    versions = list_versions(store, name, _ignore)
    if versions:
        point_latest(store, name, versions[-1].version)
    else:
        store.delete(key)


def _list_again(store: Store, key: str) -> None:
    """Make an index again; where that fails, whoever lists next does."""
    area, name, *_ = key.split("/")
    with contextlib.suppress(StoreError):
        if key.endswith("trials-index.json"):
            read_trials(store, name)
        elif area == "models":
            list_models(store, _ignore)
        elif area == "runs":
            list_run_rows(store, _ignore)
        elif area == "sweeps":
            list_sweep_rows(store, _ignore)
        elif area == "reports":
            list_reports(store, _ignore)


def _ignore(damaged: ObjectDamaged) -> None:
    """Pass by what is damaged: it is named on its own."""
