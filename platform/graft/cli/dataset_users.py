"""What in a store refers to a dataset version, and is worse off without it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.errors import ObjectDamaged
    from graft.store import Store

NAMED = 5
"""How many of each kind are named."""


@dataclass(frozen=True)
class DatasetUsers:
    """What refers to a dataset version."""

    models: tuple[str, ...]
    """NAME@VERSION of the models that were trained on it."""
    runs: tuple[str, ...]
    """Runs that are not finished."""
    sweeps: tuple[str, ...]
    """Likewise sweeps."""

    def __bool__(self) -> bool:
        return bool(self.models or self.runs or self.sweeps)

    def __str__(self) -> str:
        parts = (
            ("models trained on it, which nothing could evaluate or compare there", self.models),
            ("runs that could not go on", self.runs),
            ("sweeps that could not go on", self.sweeps),
        )
        return "; ".join(f"{what}: {_few(names)}" for what, names in parts if names)


def dataset_users(store: "Store", ref: str) -> DatasetUsers:
    """Return what refers to a dataset version by its full NAME@VERSION.

    What is damaged is passed by. A job that waits has not begun a run, and is not among them.
    """
    from graft.sweep.sweep_list import list_sweep_rows
    from graft.sweep.sweep_records import read_sweep
    from graft.training.run_records import list_run_rows

    runs = [row for row in list_run_rows(store, _ignore) if row.state == "unfinished"]
    sweeps = [row for row in list_sweep_rows(store, _ignore) if row.state == "unfinished"]
    datasets = {row.sweep: read_sweep(store, row.sweep).base.dataset for row in sweeps}
    return DatasetUsers(
        models=tuple(_trained_on(store, ref)),
        runs=tuple(row.run for row in runs if row.dataset == ref),
        sweeps=tuple(sweep for sweep, d in datasets.items() if f"{d.name}@{d.version}" == ref),
    )


def _trained_on(store: "Store", ref: str) -> Iterator[str]:
    """Yield NAME@VERSION of each model that was trained on a dataset version."""
    from graft.registry import list_models
    from graft.registry.versions import read_version
    from graft.store import unless_damaged

    for name, rows in list_models(store, _ignore).items():
        for row in rows:
            if row.dataset != ref.partition("@")[0]:
                continue
            version = unless_damaged(partial(read_version, store, name, row.version), _ignore)
            if version and f"{row.dataset}@{version.lineage.dataset_version}" == ref:
                yield version.ref


def _ignore(damaged: "ObjectDamaged") -> None:
    """Pass by what is damaged."""


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
