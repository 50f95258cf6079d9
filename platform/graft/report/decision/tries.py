"""How often images were asked to certify something of a model: each try has a part of the risk.

``models/<model>/tried/<dataset>/<number>.json``, in the order of their numbers. Who is refused may
add images and ask again, of another version of the model, too: what was looked at before is then
looked at again. So tries count over all versions of both, where the images that certify overlap.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from graft.data.manifest import DatasetVersion, open_dataset
from graft.errors import NotFoundError, ObjectDamaged, ObjectExists
from graft.registry import ModelVersion
from graft.report.decision.held_out import role_of
from graft.spec import Ref, Section
from graft.store import Store, document_bytes, read_document
from graft.store.documents import unless_damaged
from graft.store.retries import swaps

_TRY = re.compile(r".*/([1-9]\d{0,8})\.json")


class Try(Section):
    """One time that images were asked to certify something: a stored marker."""

    model: Ref
    """NAME@VERSION."""
    dataset: Ref
    """NAME@VERSION."""
    asked: str
    """What, in words."""
    before: int
    """How many tries there had been with these images, or some of them."""
    when: str
    """ISO 8601 in UTC."""


def record_try(store: Store, version: ModelVersion, dataset: DatasetVersion, asked: str) -> int:
    """Record what test images are asked to certify of a version.

    Returns how many other things these images, or some of them, had been asked before of versions
    of the model; such that share none with them but do with those in between count, too. To ask the
    same again is no other try.
    """
    name, ref = dataset.manifest.name, dataset.manifest.ref
    folder = f"models/{version.name}/tried/{name}"
    turn = swaps(f"{store.uri}/{folder}")
    while True:
        next(turn)
        tries, damaged, last = _tries(store, folder)
        for each in tries:
            if (each.model, each.dataset, each.asked) == (version.ref, ref, asked):
                return each.before
        joined = _joined(store, dataset, {each.dataset for each in tries})
        before = damaged + sum(each.dataset in joined for each in tries)
        attempt = Try(
            model=version.ref,
            dataset=ref,
            asked=asked,
            before=before,
            when=datetime.now(UTC).isoformat(),
        )
        try:
            store.create(f"{folder}/{last + 1}.json", document_bytes(attempt))
        except ObjectExists:
            continue
        return before


def _tries(store: Store, folder: str) -> tuple[list[Try], int, int]:
    """Return the tries of a folder, how many more are damaged, and the last number."""
    matches = (_TRY.fullmatch(key) for key, _ in store.scan(f"{folder}/"))
    numbers = [int(match[1]) for match in matches if match]
    damaged = list[ObjectDamaged]()

    def read(number: int) -> Try | None:
        key = f"{folder}/{number}.json"
        return unless_damaged(lambda: read_document(store, key, Try), damaged.append)

    tries = [attempt for number in numbers if (attempt := read(number))]
    return tries, len(damaged), max(numbers, default=0)


def _joined(store: Store, dataset: DatasetVersion, others: Iterable[str]) -> set[str]:
    """Return the dataset versions, NAME@VERSION, whose images certify together with a version's.

    That is where they share an image, or both do with another of these versions.
    """
    images = set(_certifying(dataset))
    waiting = {ref: _certifying_of(store, ref) for ref in others}
    joined = set[str]()
    while more := {
        ref for ref, theirs in waiting.items() if theirs is None or not theirs.isdisjoint(images)
    }:
        for ref in more:
            images |= waiting.pop(ref) or set()
        joined |= more
    return joined


def _certifying_of(store: Store, ref: str) -> set[str] | None:
    """Return the images of a dataset version that certify; None: it is not in the store."""
    name, _, version = ref.partition("@")
    try:
        return _certifying(open_dataset(store, name, version))
    except NotFoundError:
        return None


def _certifying(dataset: DatasetVersion) -> set[str]:
    digests = dataset.images("test").sha256
    return {digest for digest in digests if role_of(digest) == "certify"}
