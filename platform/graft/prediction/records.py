"""Predictions in the store, and what lies where their answers are written.

predictions/<id>/spec.yaml        what was asked, everything in it resolved
predictions/<id>/begun.json       its list of inputs; makes the prediction begun
predictions/<id>/head.json        its current attempt
predictions/<id>/progress.json    how far it is, replaced now and then
predictions/<id>/prediction.json  what came of it; makes the prediction finished

OUT/prediction-id.json            whose the answers are
OUT/part-<number>.json            makes a part done, and lists its files
OUT/answers/<number>.parquet      its answers, or .jsonl
OUT/broken-parts/<number>.parquet its files that are no image that can be used
OUT/broken/all.parquet            the same of all parts
OUT/changes/all.parquet           what changed against an earlier prediction
OUT/prediction.json               the same as in the store
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from graft.errors import InputError, NotFoundError, ObjectExists, ObjectNotFound
from graft.parts.pace import Pace
from graft.spec import Id, Prediction, Ref, Section, nearest
from graft.spec.section import Positive
from graft.store import (
    Marker,
    ObjectRef,
    Store,
    Tell,
    document_bytes,
    find_document,
    read_document,
    unless_damaged,
)
from graft.store.recorded_specs import read_recorded_spec

ANSWERS, BROKEN_FILES, CHANGES = "answers", "broken", "changes"
"""Folders of what a prediction writes."""
BROKEN_PARTS = "broken-parts"
"""Folder of each part's own broken files, from which the table of all is made."""
MARKER = "prediction.json"
BESIDE = "."
OWNER = "prediction-id.json"
_PART = re.compile(r"part-(\d{6,9})\.json")
_READERS = 16
"""Markers of parts that are read at once."""


class Begun(Section, Marker):
    """The marker ``begun.json``: what a prediction has to do."""

    prediction: Id
    model: Ref
    """NAME@VERSION."""
    decision: Positive | None
    """Number of the decision by which it answers; null: the likeliest class."""
    inputs: ObjectRef
    """Parquet: path, location and size of each input, a row group for each part."""
    images: int
    parts: int
    created: str
    """ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder that `inputs` lies in."""
        return _folder(self.prediction)


class Owner(Section):
    """The marker ``prediction-id.json`` of a folder of answers."""

    prediction: Id
    store: str
    """URI of the store in which it is recorded."""


class Part(Section):
    """A part that is done: the marker ``part-<number>.json`` beside its files."""

    number: int
    answers: ObjectRef | None
    """A row for each image; null: no file of the part is an image."""
    broken: ObjectRef | None
    """Parquet: path and reason of each file that is no image that can be used; null: none is."""
    images: int
    unusable: int
    decisions: dict[str, int]
    """Images by what was decided of them."""


class Compared(Section):
    """How a prediction differs from an earlier one of the same images."""

    against: Id
    model: Ref
    """The version that the other one is of."""
    images: int
    """Images that both have, by the SHA-256 of their files."""
    changed: int
    """Images whose decision differs."""
    only_here: int
    """Images that the other one lacks."""
    only_there: int
    """Files that this one lacks, by their SHA-256."""
    changes: ObjectRef
    """Parquet: path, sha256, before and after of each image whose decision differs."""


class Finished(Section):
    """The marker ``prediction.json``: what came of a prediction. Its files lie in `out`."""

    prediction: Id
    model: Ref
    decision: Positive | None
    source: str
    out: str
    """URI of the folder that its parts lie in. Recorded as `BESIDE` it is the one that this marker
    lies in, so that a store that is copied has its answers with it."""
    images: int
    """Images that were answered for."""
    unusable: int
    """Files that are no image that can be used."""
    decisions: dict[str, int]
    """Images by what was decided of them, the most frequent first."""
    parts: tuple[ObjectRef, ...]
    """Files of answers, in the order of the inputs."""
    broken: ObjectRef | None
    """Parquet: path and reason of each file that is no image that can be used."""
    compared: Compared | None
    not_compared: str | None
    """Why it was not compared, where it was asked to be; null: it was, or was not to be."""
    seconds: float
    """Of the attempt that finished it."""
    created: str
    """ISO 8601 in UTC."""


def read_spec(store: Store, prediction: str) -> Prediction:
    """Return what a prediction was asked; NotFoundError: there is none of that id."""
    return read_recorded_spec(store, "prediction", prediction, Prediction)


def is_begun(store: Store, prediction: str) -> bool:
    """Whether the inputs of a prediction are listed."""
    return store.exists(f"{_folder(prediction)}/begun.json")


def read_begun(store: Store, prediction: str) -> Begun:
    """Return what a prediction has to do.

    Raises:
        NotFoundError: there is no such prediction.
    """
    try:
        return read_document(store, f"{_folder(prediction)}/begun.json", Begun)
    except ObjectNotFound as error:
        hint = nearest(prediction, store.children("predictions/"))
        raise NotFoundError(f"no prediction '{prediction}' in {store.uri}{hint}") from error


def read_finished(store: Store, prediction: str) -> Finished | None:
    """Return what came of a prediction; None: it is not finished."""
    try:
        recorded = read_document(store, f"{_folder(prediction)}/{MARKER}", Finished)
    except ObjectNotFound:
        return None
    return located(store, recorded)


def located(store: Store, recorded: Finished) -> Finished:
    """Return what came of a prediction, as recorded, with the URI of where its answers are."""
    if recorded.out != BESIDE:
        return recorded
    return recorded.model_copy(update={"out": f"{store.uri}/{_folder(recorded.prediction)}"})


def write_pace(store: Store, prediction: str, pace: Pace) -> None:
    """Record how far a prediction is, and how fast."""
    store.write(f"{_folder(prediction)}/progress.json", document_bytes(pace))


def read_pace(store: Store, prediction: str) -> Pace | None:
    """Return how far a prediction was when it was last recorded; None: it never was."""
    return find_document(store, f"{_folder(prediction)}/progress.json", Pace)


def list_predictions(
    store: Store, tell: Tell | None = None
) -> Iterator[tuple[Begun, Finished | None]]:
    """Yield what is recorded of each prediction, the latest first.

    `tell` is told of damaged ones, which are left out then.
    """
    listed = []
    for prediction in store.children("predictions/"):
        if is_begun(store, prediction):
            read = partial(_read_both, store, prediction)
            listed.append(unless_damaged(read, tell))
    begun = [pair for pair in listed if pair]
    yield from sorted(begun, key=lambda pair: pair[0].created, reverse=True)


def _read_both(store: Store, prediction: str) -> tuple[Begun, Finished | None]:
    return read_begun(store, prediction), read_finished(store, prediction)


def open_out(store: Store, spec: Prediction, prediction: str) -> Store:
    """Return where a prediction's parts lie."""
    return Store.open(spec.out or f"{store.uri}/{_folder(prediction)}")


def check_out(store: Store, out: Store, prediction: str) -> None:
    """Refuse a folder of answers that is not empty, and not this prediction's.

    Raises:
        InputError: it is such a one.
    """
    if out.uri == f"{store.uri}/{_folder(prediction)}":
        return
    owner = find_document(out, OWNER, Owner)
    if owner is not None and owner != Owner(prediction=prediction, store=store.uri):
        raise InputError(
            f"--out {out.uri} has the answers of prediction '{owner.prediction}' (store "
            f"{owner.store}); choose another folder"
        )
    if owner is None and (other := next(iter(out.scan("")), None)):
        raise InputError(
            f"--out {out.uri} is not empty (it has {other[0]}); choose a folder that is, or leave "
            "--out away"
        )


def take_out(store: Store, out: Store, prediction: str) -> None:
    """Make a folder of answers a prediction's own; errors as those of `check_out`."""
    if out.uri == f"{store.uri}/{_folder(prediction)}":
        return
    try:
        owner = Owner(prediction=prediction, store=store.uri)
        out.create(OWNER, document_bytes(owner))
    except ObjectExists:
        check_out(store, out, prediction)


def record_part(out: Store, part: Part) -> None:
    """Commit a part; where another try has committed it meanwhile, that one counts."""
    try:
        out.create(part_key(part.number), document_bytes(part, compact=True))
    except ObjectExists:
        return


def part_key(number: int) -> str:
    """Return where the marker of a part lies."""
    return f"part-{number:06d}.json"


def parts_done(out: Store) -> set[int]:
    """Return the numbers of the parts that are committed."""
    return {int(match[1]) for key, _ in out.scan("part-") if (match := _PART.fullmatch(key))}


def read_parts(out: Store, numbers: Iterable[int]) -> list[Part]:
    """Return committed parts, in the order of their numbers."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda number: read_document(out, part_key(number), Part), numbers))


def _folder(prediction: str) -> str:
    return f"predictions/{prediction}"
