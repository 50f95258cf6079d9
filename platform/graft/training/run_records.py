"""Runs in the store: ids, recorded specs, attempts and results.

runs/<run>/spec.yaml                 makes the run exist
runs/<run>/attempt-<n>/attempt.json  claims attempt n
runs/<run>/head.json                 points at the current attempt
runs/<run>/cache.json                what it reads from the activation cache
runs/<run>/amendments.json           what was changed when it was to go on
runs/<run>/result.json               makes the run finished
"""

import contextlib
import re
from typing import Any, ClassVar, Literal

from graft.errors import NotFoundError
from graft.spec import Digest, Finetune, Id, Ref, Section, dump_job
from graft.store import (
    ObjectRef,
    Store,
    Tell,
    document_bytes,
    find_document,
    read_document,
    record_once,
)
from graft.store.index import indexed_rows
from graft.store.recorded_specs import id_ending, read_recorded_spec
from graft.training.amendments import amended, read_amendments
from graft.training.attempt_pointer import AttemptPointer, check_attempt, read_pointer

RUNS_INDEX = "runs/index.json"
_ATTEMPT = re.compile(r"attempt-(\d{1,9})")
"""Folder of an attempt."""


class Epoch(Section):
    """The metrics of one finished epoch."""

    epoch: int
    """From 1."""
    train: dict[str, float]
    """`loss` and `accuracy`."""
    val: dict[str, Any]
    """As `Tally.metrics` returns them; earlier releases added `recall` and `precision` by class,
    and the matrix `confusion`."""

    def numbers(self) -> "Epoch":
        """Return it without what earlier releases added."""
        val = {name: value for name, value in self.val.items() if isinstance(value, int | float)}
        return self.model_copy(update={"val": val})


class StagePlan(Section):
    """What happens to one stage, or to the head."""

    stage: str
    trained_from: int | None
    """Epoch, from 1; null: frozen throughout."""
    lr: float | None
    """Learning rate before the schedule; null where it is not trained."""
    parameters: int


class Result(Section):
    """What a finished run gives: the marker ``result.json``, and the document of ``--json``."""

    FORMAT: ClassVar[int] = 2
    """1: the confusion matrix was within `metrics`."""

    run: Id
    model: Ref | None
    """NAME@VERSION, where the spec registers one."""
    weights: Literal["best", "last"]
    """The epoch whose weights the result is about: the best one's, or the last one's."""
    epoch: int
    """Number of that epoch, from 1."""
    metrics: dict[str, dict[str, Any]]
    """`train` and `val` of that epoch; `initial`: validation before any training."""
    seconds: float
    """Wall time from the start of the command that finished the run."""
    images_per_second: float
    """Training images per second of the last attempt, validation and checkpoints left out;
    0 where it found all epochs done."""
    trunk_digest: Digest
    freeze: int
    """Freeze depth of that epoch, as a number of stages."""
    dataset: Ref
    """NAME@VERSION."""
    attempt: int
    plan: tuple[StagePlan, ...] = ()
    """What was trained when, and how fast."""
    confusion: ObjectRef | None = None
    """The confusion matrix of that epoch, see `confusion_matrix`, in the run's folder."""
    confusion_png: ObjectRef | None = None
    """The same as a picture."""
    history: tuple[dict[str, float], ...]
    """Loss and accuracy per epoch."""
    amendments: tuple[str, ...] = ()
    """What was changed while it was trained, see `training.amendments`."""
    bit_identical: bool = True
    """Whether an unbroken run gives these very weights; not with other workers or hardware."""
    created: str
    """ISO 8601 in UTC."""


def create_run(store: Store, spec: Finetune, run: str | None = None) -> str:
    """Record a resolved spec under a run id, by default a new one, and return the id.

    Raises:
        ObjectExists: there is such a run, with another spec.
    """
    run = run or spec.name + id_ending()
    store.create(f"runs/{run}/spec.yaml", dump_job(spec).encode())
    return run


class RunRow(Section):
    """What lists tell of a run; of a finished one, a row of their index."""

    run: Id
    state: Literal["finished", "unfinished"]
    attempt: int
    """0 before the first."""
    backbone: str
    """Its architecture."""
    dataset: str
    """NAME@VERSION."""
    accuracy: float | None
    """Of the validation images, with the result's weights."""
    model: Ref | None


def list_run_rows(store: Store, tell: Tell | None = None) -> list[RunRow]:
    """Return a row for every run, by id; `tell` is told of damaged ones, which are left out."""

    def make(run: str) -> RunRow | None:
        with contextlib.suppress(NotFoundError):  # it was removed
            return run_row(store, run)
        return None

    rows = indexed_rows(
        store,
        RUNS_INDEX,
        RunRow,
        store.children("runs/"),
        make,
        settled=lambda row: row.state == "finished",
        tell=tell,
    )
    return list(rows.values())


def run_row(store: Store, run: str) -> RunRow:
    """Return what lists tell of a run, from its markers; errors as those of `read_spec`."""
    spec, result = read_spec(store, run), read_result(store, run)
    pointer = read_pointer(store, run_folder(run))
    return RunRow(
        run=run,
        state="finished" if result else "unfinished",
        attempt=pointer.attempt if pointer else 0,
        backbone=spec.backbone.arch,
        dataset=f"{spec.dataset.name}@{spec.dataset.version}",
        accuracy=result.metrics["val"]["accuracy"] if result else None,
        model=result.model if result else None,
    )


def read_spec(store: Store, run: str) -> Finetune:
    """Return a run's recorded spec, with what was changed since when it was to go on.

    Raises:
        NotFoundError: no such run.
    """
    return amended(read_recorded_spec(store, "run", run, Finetune), read_amendments(store, run))


def read_result(store: Store, run: str) -> Result | None:
    """Return a run's result, None while it has none."""
    return find_document(store, f"runs/{run}/result.json", Result)


def with_classes(store: Store, result: Result) -> Result:
    """Return a result with recall, precision and confusion by class among its `val` metrics.

    They are a payload of their own in the store, but for results of earlier releases.
    """
    from graft.training.confusion_matrix import read_confusion

    if result.confusion is None:
        return result
    matrix = read_confusion(store, run_folder(result.run), result.confusion)
    val = result.metrics["val"] | matrix.by_class()
    return result.model_copy(update={"metrics": result.metrics | {"val": val}})


def run_folder(run: str) -> str:
    """Return the store's folder of a run, in which its attempts are."""
    return f"runs/{run}"


def publish_result(store: Store, pointer: AttemptPointer, result: Result) -> Result:
    """Commit the result, unless a newer attempt has taken over; return the run's.

    That is an older attempt's if that one looked before it was overtaken, and wrote after it: one
    that is paused in between is late, and as right. The run has ended then, too.

    Raises:
        RunFailed: a newer attempt has taken over.
    """
    check_attempt(store, run_folder(result.run), pointer)
    return record_once(store, f"runs/{result.run}/result.json", Result, lambda: result)


def put_metrics(store: Store, run: str, attempt: int, epoch: Epoch) -> None:
    """Write one epoch's metrics as a numbered chunk."""
    key = f"runs/{run}/attempt-{attempt}/metrics/{epoch.epoch:06d}.json"
    store.write(key, document_bytes(epoch, compact=True))


def latest_epoch(store: Store, run: str) -> Epoch | None:
    """Return the last epoch that a run has finished, None before the first."""
    attempts = [_ATTEMPT.fullmatch(folder) for folder in store.children(f"{run_folder(run)}/")]
    for attempt in sorted((int(match[1]) for match in attempts if match), reverse=True):
        if keys := sorted(key for key, _ in store.scan(f"runs/{run}/attempt-{attempt}/metrics/")):
            return read_document(store, keys[-1], Epoch)
    return None
