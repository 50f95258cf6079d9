"""Decisions in the store: ``decisions/<number>.json`` beside a version, each of them immutable.

A version never changes, and neither do its golden images, which are of logits. What its answers
mean is the decision with the highest number; without any, the likeliest class at the model's own
probability.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from graft.decisions.calibration import NONE, Calibration
from graft.decisions.promises import Promise
from graft.decisions.rules import Likeliest, Rule, misfit
from graft.errors import ObjectDamaged, ObjectExists
from graft.registry import ModelVersion
from graft.spec import Ref, Section
from graft.spec.section import Fraction, Positive
from graft.store import FileName, Marker, ObjectRef, Store, document_bytes, read_document
from graft.store.retries import swaps

_MARKER = re.compile(r"decisions/([1-9]\d{0,8})\.json")


class Held(Section):
    """How images that nothing was made from are answered: those that judge."""

    images: int
    answered: int
    """Images that are not answered `unknown`."""
    right: int
    """Of these, answered with what is on them."""
    promises: tuple[Promise, ...] = ()
    """What they say of each target. They prove nothing: that is done."""
    covered: int | None = None
    """Of sets: images whose set holds what is on them."""
    mean_set: float | None = None
    """Of sets: their mean number of classes."""


class DecisionDraft(Section):
    """What a version's answers mean, before it has a number."""

    model: Ref
    """NAME@VERSION."""
    calibration: Calibration = NONE
    rule: Rule = Likeliest()
    confidence: Fraction | None = None
    """With which all promises hold, jointly; null: nothing is promised."""
    promises: tuple[Promise, ...] = ()
    coverage: Fraction | None = None
    """Of sets: share of images whose set holds the true class, on average over draws."""
    dataset: Ref | None = None
    """NAME@VERSION of the images that it was made from; null: of none."""
    split: str | None = None
    """The split that they are of."""
    fitted_on: int = 0
    """Images that the calibration and the order of thresholds are from."""
    certified_on: int = 0
    """Other images, which certify the promises, or the sets."""
    tried_before: int = 0
    """How many other things these images, or some of them, had been asked to certify of versions of
    the model, in vain or not."""
    level: Fraction | None = None
    """At which the promises were tested: the part of the risk, 1 - `confidence`, that this try has,
    so that all tries together take no more than the risk; null: nothing is promised."""
    used_before: int = 0
    """How often images that judge had been looked at before, by reports and decisions."""
    left_out: tuple[str, ...] = ()
    """Which images do nothing here, since they trained or tuned the version, a line each."""
    held: Held | None = None
    """What the images that judge say of it; null: none do."""
    error_before: float | None = None
    """Calibration error of the model's own probabilities; see `fitted_on`, and `crossed`."""
    error_after: float | None = None
    """Calibration error of the calibrated ones, on the same images."""
    crossed: bool = False
    """Whether these errors are of the images that the calibration is from, each by what was fitted
    without it; else they are of those that judge."""


class Decision(DecisionDraft, Marker):
    """What a version's answers mean: a marker, which never changes."""

    number: Positive
    files: dict[FileName, ObjectRef]
    """The page that shows it, and its pictures, by the names that they get on a disk."""
    created: str
    """ISO 8601 in UTC."""

    @property
    def folder(self) -> str:
        """The store's folder that `files` lie in."""
        name, _, version = self.model.partition("@")
        return f"models/{name}/versions/{version}/decisions"


def list_decisions(store: Store, version: ModelVersion) -> list[int]:
    """Return the numbers of a version's decisions, in order."""
    prefix = f"{version.folder}/"
    keys = (key.removeprefix(prefix) for key, _ in store.scan(f"{prefix}decisions/"))
    return sorted(int(match[1]) for key in keys if (match := _MARKER.fullmatch(key)))


def read_decision(store: Store, version: ModelVersion, number: int) -> Decision:
    """Return a decision by its number.

    Raises:
        ObjectNotFound: there is none.
        ObjectDamaged: it is none of this version and number, or does not fit the version's classes.
    """
    key = _key(version, number)
    advice = f"`graft models decide {version.ref} --plain`, or another decision, takes its place"
    decision = read_document(store, key, Decision, advice)
    if problem := _misfit(decision, version, number):
        raise ObjectDamaged(f"{store.uri}/{key}: {problem}; {advice}")
    return decision


def decision_in_force(store: Store, version: ModelVersion) -> Decision | None:
    """Return what a version's answers mean; None: the likeliest class, as the model has it.

    Raises:
        StoreError: it cannot be read.
    """
    numbers = list_decisions(store, version)
    return read_decision(store, version, numbers[-1]) if numbers else None


def record_decision(
    store: Store, version: ModelVersion, draft: DecisionDraft, files: Mapping[str, bytes]
) -> Decision:
    """Commit a version's next decision, which is in force from then on, and return it."""
    folder = f"{version.folder}/decisions"
    refs = {name: store.put(folder, name, data) for name, data in files.items()}
    turn = swaps(f"{store.uri}/{version.folder}/decisions")
    while True:
        next(turn)
        number = max(list_decisions(store, version), default=0) + 1
        now = datetime.now(UTC).isoformat()
        decision = Decision(**dict(draft), number=number, files=refs, created=now)
        try:
            store.create(_key(version, number), document_bytes(decision))
        except ObjectExists:
            continue
        return decision


def _misfit(decision: Decision, version: ModelVersion, number: int) -> str:
    """Return why a decision is not one of a version, or nothing."""
    if (decision.model, decision.number) != (version.ref, number):
        return f"it is decision {decision.number} of {decision.model}"
    return misfit(decision.calibration, decision.rule, version.classes)


def _key(version: ModelVersion, number: int) -> str:
    return f"{version.folder}/decisions/{number}.json"
