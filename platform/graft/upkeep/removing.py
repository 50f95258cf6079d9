"""Removing runs, sweeps, reports and model versions: their markers go; `graft gc` takes the rest.

A marker goes first, so that whoever is stopped here leaves what nothing finds any more, and
nothing half there. What still refers to it is asked before: nothing is removed that something at
work, an alias or a child cannot do without.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from graft.errors import InputError, NotFoundError, ObjectDamaged
from graft.prediction.records import list_predictions
from graft.registry import ModelVersion, aliases, list_models, verdicts
from graft.registry.versions import read_version, remove_version
from graft.report.publishing import has_report
from graft.spec import nearest
from graft.store import Store, unless_damaged
from graft.sweep.sweep_list import list_sweep_rows
from graft.sweep.sweep_records import read_sweep, read_trials
from graft.training.attempt_pointer import hold_attempt
from graft.training.run_records import RUNS_INDEX, list_run_rows, read_spec, run_folder
from graft.units import duration

BUSY_S = 3600.0
"""An unfinished run that wrote something since then may be at work: a run has no lease."""
NAMED = 5
MODEL = "model://"
_MARKERS = ("spec.yaml", "result.json", "report.json")
"""What makes a run, a sweep or a report exist, then what makes it finished."""


@dataclass(frozen=True)
class Removed:
    """What a removal left for `graft gc`."""

    removed: str
    objects: int
    bytes: int


def check_run(store: Store, run: str, force: bool) -> None:
    """Refuse to remove a run that is at work, or that something at work needs.

    Raises:
        NotFoundError: there is no such run.
        InputError: something needs it; `force` overrides what only may be.
    """
    _require(store, "run", run)
    for sweep in _unfinished_sweeps(store):
        records = unless_damaged(partial(read_trials, store, sweep), _ignore) or ()
        if run in {record.run for record in records} or run.startswith(f"{sweep}-"):
            raise InputError(
                f"run '{run}' is of sweep {sweep}, which is not finished: let it end, or remove it "
                f"first, with graft sweeps rm {sweep}"
            )
    if not (store.exists(f"{run_folder(run)}/result.json") or force):
        raise InputError(
            f"run '{run}' is not finished{_last_written(store, run_folder(run))}: let it end, or "
            "stop it there; --force removes it all the same"
        )


def remove_run(store: Store, run: str) -> Removed:
    """Remove a run: its spec and its result, and with them its name."""
    return _remove(store, run_folder(run), run, RUNS_INDEX)


def check_sweep(store: Store, sweep: str) -> None:
    """Refuse to remove a sweep that a report at work needs.

    Raises:
        NotFoundError: there is no such sweep.
        InputError: a report needs it.
    """
    _require(store, "sweep", sweep)
    report = sweep.removesuffix("-rates").removesuffix("-seeds")
    is_begun = report != sweep and store.exists(f"reports/{report}/spec.yaml")
    if is_begun and not has_report(store, report):
        raise InputError(
            f"sweep '{sweep}' is of report {report}, which is not finished: go on with it, "
            f"graft reports transfer --resume {report}, or remove it first"
        )


def remove_sweep(store: Store, sweep: str, say: Callable[[str], object]) -> Removed:
    """Remove a sweep; the runs of its trials stay.

    Raises:
        InputError: it is at work.
    """
    with hold_attempt(store, f"sweeps/{sweep}", say):
        return _remove(store, f"sweeps/{sweep}", sweep, "sweeps/index.json")


def check_report(store: Store, report: str, force: bool) -> None:
    """Refuse to remove a report that is evidence of a model version.

    Raises:
        NotFoundError: there is no such report.
        InputError: a version's verdict names it, and `force` does not say that it goes.
    """
    _require(store, "report", report)
    citing = [
        version.ref
        for version in _versions(store)
        for verdict in unless_damaged(partial(verdicts, store, version), _ignore) or ()
        if verdict.report == report
    ]
    if citing and not force:
        raise InputError(
            f"report '{report}' is evidence of {_few(citing)}, of which `graft models promote` "
            "goes by: the verdict stays, and its figures could not be looked up; --force removes "
            "it all the same"
        )


def remove_report(store: Store, report: str, say: Callable[[str], object]) -> Removed:
    """Remove a report; what it recorded of versions, and of the images that it used, stays.

    Raises:
        InputError: it is at work.
    """
    folder = f"reports/{report}"
    if has_report(store, report):
        return _remove(store, folder, report, "reports/index.json")
    with hold_attempt(store, folder, say):
        return _remove(store, folder, report, "reports/index.json")


def check_version(store: Store, version: ModelVersion, force: bool) -> None:
    """Refuse to remove a version that an alias points at, or that others begin with.

    Raises:
        InputError: one does; `force` overrides all but aliases, and what is not finished.
    """
    pointers = aliases(store, version.name)
    pointing = [alias for alias, number in pointers.items() if number == version.version]
    if pointing:
        raise InputError(
            f"{_few(pointing)} of {version.name} points at {version.ref}: point it at another "
            f"version first, graft models promote {version.name}@VERSION --alias {pointing[0]}"
        )
    source = f"{MODEL}{version.ref}"
    if waiting := [*_unfinished_from(store, source), *_predicting(store, version.ref)]:
        raise InputError(
            f"{version.ref} is what {_few(waiting)} begins with, or answers by, and is not "
            "finished: let it end, or remove it first"
        )
    children = [v.ref for v in _versions(store) if v.lineage.weights == source]
    if children and not force:
        raise InputError(
            f"{_few(children)} began with the weights of {version.ref}: what was frozen there is "
            "kept for them, but their runs could not be read or repeated without it; --force "
            "removes it all the same"
        )


def remove_model_version(store: Store, version: ModelVersion, who: str) -> Removed:
    """Remove a version, with its decisions; no other one ever gets its number."""
    remove_version(store, version, who)
    store.delete(f"models/{version.name}/index.json")
    return _left(store, version.folder, version.ref)


def _remove(store: Store, folder: str, name: str, index: str) -> Removed:
    """Remove the markers of what lies in a folder: what makes it exist, and makes it finished."""
    for marker in _MARKERS:
        store.delete(f"{folder}/{marker}")
    store.delete(index)  # its row; whoever lists next makes it again
    return _left(store, folder, name)


def _left(store: Store, folder: str, name: str) -> Removed:
    sizes = [size for _, size in store.scan(f"{folder}/")]
    return Removed(name, len(sizes), sum(sizes))


def _require(store: Store, sort: str, name: str) -> None:
    if not any(store.exists(f"{sort}s/{name}/{marker}") for marker in _MARKERS):
        hint = nearest(name, store.children(f"{sort}s/"))
        raise NotFoundError(f"no {sort} '{name}' in {store.uri}{hint}")


def _last_written(store: Store, folder: str) -> str:
    latest = max((entry.modified for entry in store.entries(f"{folder}/")), default=0.0)
    ago = max(store.clock() - latest, 0.0)
    return f", and may be at work: it wrote {duration(ago)} ago" if ago < BUSY_S else ""


def _unfinished_sweeps(store: Store) -> list[str]:
    rows = list_sweep_rows(store, _ignore)
    return [row.sweep for row in rows if row.state == "unfinished"]


def _unfinished_from(store: Store, source: str) -> Iterator[str]:
    """Yield the unfinished runs and sweeps that begin with a model version's weights."""
    for row in list_run_rows(store, _ignore):
        if row.state == "unfinished":
            spec = unless_damaged(partial(read_spec, store, row.run), _ignore)
            if spec and spec.backbone.weights == source:
                yield f"run {row.run}"
    for sweep in _unfinished_sweeps(store):
        wider = unless_damaged(partial(read_sweep, store, sweep), _ignore)
        if wider and wider.base.backbone.weights == source:
            yield f"sweep {sweep}"


def _predicting(store: Store, ref: str) -> Iterator[str]:
    """Yield the unfinished predictions that a model version makes."""
    for begun, finished in list_predictions(store, _ignore):
        if begun.model == ref and finished is None:
            yield f"prediction {begun.prediction}"


def _versions(store: Store) -> Iterator[ModelVersion]:
    for name, rows in list_models(store, _ignore).items():
        for row in rows:
            read = partial(read_version, store, name, row.version)
            if version := unless_damaged(read, _ignore):
                yield version


def _ignore(damaged: ObjectDamaged) -> None:
    """Pass by what is damaged."""


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
