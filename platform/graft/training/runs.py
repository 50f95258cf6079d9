"""Runs in the store: ids, recorded specs, attempts and results.

runs/<run>/spec.yaml                 makes the run exist
runs/<run>/attempt-<n>/attempt.json  claims attempt n
runs/<run>/head.json                 points at the current attempt
runs/<run>/result.json               makes the run finished
"""

import json
import secrets
from datetime import UTC, datetime
from typing import Any, Literal

from graft.errors import NotFoundError, ObjectChanged, ObjectExists, ObjectNotFound, RunFailed
from graft.spec import Finetune, Section, dump_job, nearest, parse_job, parse_yaml
from graft.store import ObjectRef, Store


class Epoch(Section):
    """What one epoch gave."""

    epoch: int
    """From 1."""
    train: dict[str, float]
    val: dict[str, Any]


class StagePlan(Section):
    """What happens to one stage, or to the head."""

    stage: str
    trained_from: int | None
    """Epoch, from 1; null: frozen throughout."""
    lr: float | None
    """Learning rate before the schedule; null where it is not trained."""
    parameters: int


class Head(Section):
    """The pointer ``head.json``."""

    attempt: int
    token: str
    """Unique to the claim: tells this attempt from another of the same number."""


class Result(Section):
    """What a finished run gives: the marker ``result.json``, and the document of ``--json``."""

    run: str
    model: str | None
    """NAME@VERSION, where the spec registers one."""
    weights: Literal["best", "last"]
    """Which weights were kept; `epoch` and `metrics` are theirs."""
    epoch: int
    """From 1."""
    metrics: dict[str, dict[str, Any]]
    """`train` and `val` of that epoch; `initial`: validation before any training."""
    seconds: float
    """Wall time from the start of the command that finished the run."""
    images_per_second: float
    """Training images per second of the last attempt, validation and checkpoints left out;
    0 where it found all epochs done."""
    trunk_digest: str
    freeze: int
    """Freeze depth of that epoch, as a number of stages."""
    dataset: str
    """NAME@VERSION."""
    attempt: int
    plan: tuple[StagePlan, ...] = ()
    """What was trained when, and how fast."""
    confusion_png: ObjectRef | None = None
    """The confusion matrix as a picture, in the run's folder."""
    history: tuple[dict[str, float], ...]
    """Loss and accuracy per epoch."""
    created: str
    """ISO 8601 in UTC."""


def create_run(store: Store, spec: Finetune, run: str | None = None) -> str:
    """Record a resolved spec under a run id, by default a new one, and return the id.

    Raises:
        ObjectExists: there is such a run, with another spec.
    """
    run = run or f"{spec.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    store.create(f"runs/{run}/spec.yaml", dump_job(spec).encode())
    return run


def list_runs(store: Store) -> list[str]:
    """Return the ids of all runs."""
    return store.children("runs/")


def read_spec(store: Store, run: str) -> Finetune:
    """Return a run's recorded spec.

    Raises:
        NotFoundError: no such run.
    """
    where = f"runs/{run}/spec.yaml"
    try:
        text = store.read(where).data.decode()
    except ObjectNotFound as error:
        raise NotFoundError(
            f"no run '{run}' in {store.uri}{nearest(run, list_runs(store))}"
        ) from error
    return parse_job(parse_yaml(text, where), where)


def read_result(store: Store, run: str) -> Result | None:
    """Return a run's result, None while it has none."""
    try:
        return Result.model_validate_json(store.read(f"runs/{run}/result.json").data)
    except ObjectNotFound:
        return None


def read_head(store: Store, run: str) -> Head | None:
    """Return a run's current attempt, None before the first."""
    try:
        return Head.model_validate_json(store.read(_head(run)).data)
    except ObjectNotFound:
        return None


def claim_attempt(store: Store, run: str) -> Head:
    """Take the run's next attempt; whoever held it before can publish nothing any more."""
    while True:
        try:
            current = store.read(_head(run))
        except ObjectNotFound:
            current = None
        number = Head.model_validate_json(current.data).attempt + 1 if current else 1
        head = Head(attempt=number, token=secrets.token_hex(8))
        data = head.model_dump_json().encode()
        try:
            store.create(f"runs/{run}/attempt-{number}/attempt.json", data)
        except ObjectExists:
            # Claimed by another, which may have died before it moved the pointer: move it on.
            data = store.read(f"runs/{run}/attempt-{number}/attempt.json").data
            head = Head.model_validate_json(data)
            _move_head(store, run, data, current.etag if current else None)
            continue
        if _move_head(store, run, data, current.etag if current else None):
            return head


def check_attempt(store: Store, run: str, head: Head) -> None:
    """Refuse to publish for an attempt that is no longer the run's current one.

    Raises:
        RunFailed: a newer attempt has taken over.
    """
    current = read_head(store, run)
    if current != head:
        newer = current.attempt if current else "none"
        raise RunFailed(
            f"{run}: attempt {head.attempt} was overtaken by attempt {newer}; it publishes nothing"
        )


def publish_result(store: Store, head: Head, result: Result) -> None:
    """Commit the result, unless a newer attempt has taken over."""
    check_attempt(store, result.run, head)
    store.create(f"runs/{result.run}/result.json", result.model_dump_json(indent=1).encode())


def put_metrics(store: Store, run: str, attempt: int, epoch: Epoch) -> None:
    """Write one epoch's metrics as a numbered chunk."""
    key = f"runs/{run}/attempt-{attempt}/metrics/{epoch.epoch:06d}.json"
    store.write(key, json.dumps(epoch.model_dump(mode="json")).encode())


def latest_epoch(store: Store, run: str) -> Epoch | None:
    """Return the last epoch of a run that is done, None before the first."""
    head = read_head(store, run)
    for attempt in range(head.attempt if head else 0, 0, -1):
        if keys := sorted(key for key, _ in store.scan(f"runs/{run}/attempt-{attempt}/metrics/")):
            return Epoch.model_validate_json(store.read(keys[-1]).data)
    return None


def _head(run: str) -> str:
    return f"runs/{run}/head.json"


def _move_head(store: Store, run: str, data: bytes, etag: str | None) -> bool:
    try:
        if etag is None:
            store.create(_head(run), data)
        else:
            store.replace(_head(run), data, etag)
    except (ObjectExists, ObjectChanged):
        return False
    return True
