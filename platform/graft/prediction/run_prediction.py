"""Running a prediction: begun with a list of inputs, done part by part, and finished once.

A prediction that is resumed goes on with the parts that are left: no image of a part that is done
is predicted again.
"""

import contextlib
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from graft.decisions.records import decision_in_force
from graft.errors import InputError, ObjectDamaged, ObjectExists, ObjectNotFound
from graft.parts.pace import Pace, Stopwatch, Throttle
from graft.prediction.compare import check_answers, compare_predictions
from graft.prediction.inputs import Listed, dataset_of, list_inputs, write_inputs
from graft.prediction.part import BROKEN
from graft.prediction.records import (
    ANSWERS,
    BESIDE,
    BROKEN_FILES,
    BROKEN_PARTS,
    CHANGES,
    MARKER,
    Begun,
    Compared,
    Finished,
    Part,
    check_out,
    located,
    open_out,
    parts_done,
    read_begun,
    read_finished,
    read_parts,
    read_spec,
    take_out,
    write_pace,
)
from graft.registry import Fence, get_model
from graft.spec import Prediction, dump_job
from graft.spec.prediction import DATASET_SCHEME
from graft.store import ObjectRef, Store, document_bytes, find_document
from graft.store.recorded_specs import id_ending
from graft.training.attempt_pointer import hold_attempt

TELL_STORE_EVERY_S = 10.0
"""Seconds between records of how far it is, at least."""
Predict = Callable[[Prediction, Begun, list[int]], Iterator[tuple[int, int, int]]]
"""Answers for parts; yields number, images and unusable files of each that is done."""
Progress = Callable[[Pace], object]
"""Is told how far it is."""


def create_prediction(
    store: Store,
    spec: Prediction,
    prediction: str | None = None,
    listed: Listed = lambda files: None,
) -> str:
    """Record a prediction and the list of its inputs, by default under a new id; return the id.

    Of one whose beginning was interrupted the recorded spec holds, not `spec`.

    Raises:
        InputError: the source has no file, the folder of answers is not empty, or the prediction
            that it is compared with is not finished, or has lost answers.
        NotFoundError: there is no such model, dataset or prediction.
    """
    prediction = prediction or f"{spec.name}{id_ending()}"
    folder = f"predictions/{prediction}"
    if store.exists(f"{folder}/spec.yaml"):
        spec = read_spec(store, prediction)
    else:
        spec = _resolve(store, spec)
    version = get_model(store, spec.model)
    out = open_out(store, spec, prediction)
    check_out(store, out, prediction)
    with tempfile.TemporaryDirectory(prefix="graft-inputs-") as scratch:
        path = Path(scratch) / "inputs.parquet"
        images = write_inputs(path, list_inputs(store, spec.source, listed), spec.part_images)
        with contextlib.suppress(ObjectExists):
            store.create(f"{folder}/spec.yaml", dump_job(spec).encode())
        take_out(store, out, prediction)
        decision = decision_in_force(store, version)
        begun = Begun(
            prediction=prediction,
            model=version.ref,
            decision=decision and decision.number,
            inputs=store.put(folder, path.name, path),
            images=images,
            parts=-(-images // spec.part_images),
            created=datetime.now(UTC).isoformat(),
        )
    with contextlib.suppress(ObjectExists):
        store.create(f"{folder}/begun.json", document_bytes(begun))
    return prediction


def _resolve(store: Store, spec: Prediction) -> Prediction:
    """Return a spec as it is recorded: with the versions, and the folder, that its names mean."""
    source = spec.source
    if source.startswith(DATASET_SCHEME):
        source = f"{DATASET_SCHEME}{dataset_of(store, source).manifest.ref}"
    if spec.against is not None:
        check_answers(finished(store, spec.against))
    out = spec.out and Store.open(spec.out).uri
    model = get_model(store, spec.model).ref
    return spec.model_copy(update={"model": model, "source": source, "out": out})


def finished(store: Store, prediction: str) -> Finished:
    """Return what came of a prediction.

    Raises:
        NotFoundError: there is none of that id.
        InputError: it is not finished.
    """
    read_begun(store, prediction)
    outcome = read_finished(store, prediction)
    if outcome is None:
        raise InputError(
            f"prediction '{prediction}' is not finished: graft predict-batch --resume {prediction}"
        )
    return outcome


def run_prediction(
    store: Store,
    prediction: str,
    predict: Predict,
    progress: Progress,
    say: Callable[[str], object] = lambda text: None,
    take_over: bool = False,
) -> Finished:
    """Run a recorded prediction to its end, or resume it; return what came of it.

    Args:
        store: where it is recorded.
        prediction: its id.
        predict: answers for parts.
        progress: see `Progress`.
        say: called with a line where another process is, or was, at work on it.
        take_over: as `hold_attempt` has it.

    Raises:
        InputError: no file of the source is an image that can be used; or another process is at
            work on it.
        RunFailed: a newer attempt has taken over.
    """
    spec, begun = read_spec(store, prediction), read_begun(store, prediction)
    if outcome := read_finished(store, prediction):
        return outcome
    out = open_out(store, spec, prediction)
    take_out(store, out, prediction)
    with hold_attempt(store, f"predictions/{prediction}", say, take_over) as fence:
        started = time.monotonic()
        done = parts_done(out)
        remaining = [number for number in range(begun.parts) if number not in done]
        files: int = sum(part.images + part.unusable for part in read_parts(out, sorted(done)))
        store_turn = Throttle(TELL_STORE_EVERY_S)
        stopwatch = Stopwatch(files, begun.images)

        def tell() -> None:
            pace = stopwatch.pace(files)
            progress(pace)
            if store_turn.is_due():
                write_pace(store, prediction, pace)

        tell()
        if remaining:
            for _, good, unusable in predict(spec, begun, remaining):
                files += good + unusable
                tell()
            write_pace(store, prediction, stopwatch.pace(files))
        return _finish(store, out, spec, begun, fence, time.monotonic() - started)


def _finish(
    store: Store, out: Store, spec: Prediction, begun: Begun, fence: Fence, seconds: float
) -> Finished:
    """Commit what came of all parts."""
    outcome = find_document(out, MARKER, Finished)
    if outcome is None:  # else an attempt ended before it could say so in the store
        parts = _all_parts(out, begun)
        outcome = _outcome(store, out, spec, begun, parts, seconds)
        fence()
        _sweep(out, parts, outcome)
        out.create(MARKER, document_bytes(outcome))
    fence()
    with contextlib.suppress(ObjectExists):
        store.create(f"{begun.folder}/{MARKER}", document_bytes(outcome))
    return located(store, outcome)


def _all_parts(out: Store, begun: Begun) -> list[Part]:
    """Return all parts.

    Raises:
        InputError: some lie elsewhere.
    """
    if missing := begun.parts - len(parts_done(out)):
        raise InputError(
            f"{out.uri} lacks {missing:,} of {begun.parts:,} parts that are done: it is another "
            "folder on each machine; give --out an s3:// URI"
        )
    return read_parts(out, range(begun.parts))


def _outcome(
    store: Store,
    out: Store,
    spec: Prediction,
    begun: Begun,
    parts: Sequence[Part],
    seconds: float,
) -> Finished:
    """Put together what came of all parts.

    Raises:
        InputError: no file is an image.
    """
    decisions: Counter[str] = Counter()
    for part in parts:
        decisions.update(part.decisions)
    broken = _all_broken(out, parts)
    images = sum(part.images for part in parts)
    if not images:
        reasons = "" if broken is None else f" (see {out.uri}/{BROKEN_FILES}/{broken.name})"
        raise InputError(
            f"source '{spec.source}': none of {begun.images:,} files is an image that can be "
            f"used{reasons}"
        )
    compared, not_compared = _compared(store, out, parts, spec.against)
    return Finished(
        prediction=begun.prediction,
        model=begun.model,
        decision=begun.decision,
        source=spec.source,
        out=spec.out or BESIDE,
        images=images,
        unusable=sum(part.unusable for part in parts),
        decisions=dict(decisions.most_common()),
        parts=tuple(part.answers for part in parts if part.answers),
        broken=broken,
        compared=compared,
        not_compared=not_compared,
        seconds=seconds,
        created=datetime.now(UTC).isoformat(),
    )


def _compared(
    store: Store, out: Store, parts: Iterable[Part], against: str | None
) -> tuple[Compared | None, str | None]:
    """Return how answers differ from an earlier prediction's, or why nobody can say."""
    if against is None:
        return None, None
    try:
        return compare_predictions(out, parts, finished(store, against)), None
    except (ObjectNotFound, ObjectDamaged) as error:
        return None, f"not compared with {against}: {error}"


def _all_broken(out: Store, parts: Iterable[Part]) -> ObjectRef | None:
    """Write one table of all files that are no image that can be used."""
    refs = [part.broken for part in parts if part.broken]
    if not refs:
        return None
    tables = [pq.read_table(io.BytesIO(out.get(BROKEN_PARTS, ref))) for ref in refs]
    file = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).cast(BROKEN), file)
    return out.put(BROKEN_FILES, "all.parquet", file.getvalue())


def _sweep(out: Store, parts: Iterable[Part], outcome: Finished) -> None:
    """Remove what interrupted tries wrote: who reads a whole folder would read it twice."""
    kept = {f"{ANSWERS}/{ref.name}" for ref in outcome.parts}
    kept |= {f"{BROKEN_PARTS}/{part.broken.name}" for part in parts if part.broken}
    for folder, ref in (
        (BROKEN_FILES, outcome.broken),
        (CHANGES, outcome.compared and outcome.compared.changes),
    ):
        kept |= {f"{folder}/{ref.name}"} if ref else set()
    for folder in (ANSWERS, BROKEN_FILES, BROKEN_PARTS, CHANGES):
        for key, _ in list(out.scan(f"{folder}/")):
            if key not in kept:
                out.delete(key)
