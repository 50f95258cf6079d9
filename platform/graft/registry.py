"""The registry: immutable model versions, the aliases that point at them, and their lineage.

A version is a trunk digest, the tail trained on that trunk, the preprocessing contract
and the golden images, by which a server proves that it computes what training did. The frozen
stages' weights stay where training put them, at ``stages/<digest>/``.
``versions/<n>/model.json`` makes version n exist; only aliases move. Beside it, ``verdicts/``
holds what reports have shown of the version.
"""

import contextlib
import re
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from graft.errors import InputError, NotFoundError, ObjectChanged, ObjectExists, ObjectNotFound
from graft.spec import NAME, Contract, Head, Name, Section, nearest
from graft.store import ObjectRef, Store, parse_document, read_document

CHAMPION = "champion"
"""A model's bare name means the version that this alias points at, once it is set."""

Outcome = Literal["better", "worse", "not shown"]

_MARKER = re.compile(r"models/([^/]+)/versions/([1-9]\d*)/model\.json")
_ALIAS = re.compile(r"models/[^/]+/aliases/([^/]+)\.json")


class Lineage(Section):
    """Where a model version comes from."""

    run: str
    """Id of the run that trained it; a sweep's trial is SWEEP/NUMBER."""
    sweep: str | None = None
    """Id of the sweep that found it best."""
    dataset: str
    """The dataset's name."""
    dataset_version: str
    spec: dict[str, Any]
    """The run's recorded spec, everything in it resolved."""
    weights: str
    """Where the backbone's initial weights came from, as recorded."""
    weights_sha256: str | None
    """SHA-256 of the file that held those weights; null if they came from no file."""
    packages: dict[str, str]
    """Versions of the packages that trained it."""
    git_commit: str | None
    """Commit of the code that trained it; null if it did not run from a checkout."""


class ModelDraft(Section):
    """A model version before it has a number."""

    name: Name
    arch: str
    """Architecture, as `backbone.arch` in a spec."""
    head: Head
    dropout: float | None
    """Dropout probability in training; null: the architecture's own."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    contract: Contract
    """The preprocessing, from an image file's bytes to the tensor."""
    freeze: int
    """Freeze depth d: how many stages the trunk has."""
    stages: tuple[str, ...]
    """Chain digests c[1]..c[d]; a frozen stage's weights are at ``stages/<digest>/``."""
    trunk_digest: str
    """c[d]."""
    metrics: dict[str, Any]
    """What the registered weights reached in validation."""
    weights: Literal["best", "last"]
    """Which of the run's weights these are."""
    epoch: int
    """The epoch after which training had those weights."""
    lineage: Lineage


class ModelVersion(ModelDraft):
    """A registered, immutable model version."""

    version: int = Field(gt=0)
    created: str
    """Time of registration, ISO 8601 in UTC."""
    tail: ObjectRef
    """Safetensors: parameters and buffers of stages d.. and the head, in torchvision's names."""
    golden: ObjectRef
    """Safetensors: ``image.<i>``, the bytes of original image files (uint8), and ``logits``
    (n, C) float32, what training computed from them."""

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"

    @property
    def folder(self) -> str:
        """The store's folder that `tail` and `golden` lie in."""
        return _folder(self.name, self.version)


class Verdict(Section):
    """What a report shows of a version compared with another, or with training from scratch."""

    against: str
    """NAME@VERSION, or `scratch`."""
    outcome: Outcome
    """How the version compares, see `against`."""
    why: str
    """The figures that show it, on one line."""
    report: str
    """The report's id."""


class Move(Section):
    """One time that an alias was set."""

    from_: int | None = Field(alias="from")
    """The version that the alias pointed at before; null: the alias was new."""
    to: int
    when: str
    """ISO 8601 in UTC."""


class Alias(Section):
    """A pointer to a version, and how it got there."""

    version: int
    history: tuple[Move, ...]
    """Oldest first; the last one's `to` is `version`."""


def register(store: Store, draft: ModelDraft, tail: bytes, golden: bytes) -> ModelVersion:
    """Commit the next version of a model, and return it.

    A run registers at most one version of a model: if `draft.lineage.run` has registered one
    already, that one is returned and nothing is written.

    Args:
        store: where to.
        draft: all but the number.
        tail: see `ModelVersion.tail`.
        golden: see `ModelVersion.golden`.
    """
    while True:
        numbers = _numbers(store, draft.name)
        for number in reversed(numbers):
            version = _read(store, draft.name, number)
            if version.lineage.run == draft.lineage.run:
                return version
        number = max(numbers, default=0) + 1
        folder = _folder(draft.name, number)
        version = ModelVersion(
            **dict(draft),
            version=number,
            created=datetime.now(UTC).isoformat(),
            tail=store.put(folder, "tail.safetensors", tail),
            golden=store.put(folder, "golden.safetensors", golden),
        )
        try:
            store.create(f"{folder}/model.json", version.model_dump_json(indent=2).encode())
        except ObjectExists:
            # Another run took the number: remove our payloads, but for those that are its, too.
            taken = _read(store, draft.name, number)
            for ref in {version.tail, version.golden} - {taken.tail, taken.golden}:
                store.delete(f"{folder}/{ref.name}")
        else:
            return version


def get_model(store: Store, ref: str) -> ModelVersion:
    """Return the version that `ref` means.

    ``NAME`` is the champion if that alias is set, else the newest version;
    ``NAME@3`` a version; ``NAME@candidate`` what an alias points at.

    Raises:
        NotFoundError: no such model, version or alias; the nearest ones are named.
    """
    name, _, selector = ref.partition("@")
    numbers = _numbers(store, name) if re.fullmatch(NAME, name) else []
    if not numbers:
        models = sorted({model for model, _ in _scan(store, "models/")})
        raise NotFoundError(
            f"no model '{name}' in {store.uri}{nearest(name, models)}"
            + ("" if models else "; it has none yet, `graft train` registers them")
        )
    pointers = aliases(store, name)
    if "@" not in ref:
        number = pointers.get(CHAMPION, numbers[-1])
    elif selector.isdecimal() and int(selector) in numbers:
        number = int(selector)
    elif selector in pointers:
        number = pointers[selector]
    else:
        selectors = [*pointers, *map(str, reversed(numbers))]
        raise NotFoundError(
            f"model '{name}' has no version or alias '{selector}'{nearest(selector, selectors)}"
        )
    return _read(store, name, number)


def list_models(store: Store) -> list[ModelVersion]:
    """Return every version of every model, by name and number."""
    return [_read(store, name, number) for name, number in _scan(store, "models/")]


def aliases(store: Store, name: str) -> dict[str, int]:
    """Return a model's aliases and the versions they point at."""
    versions = {}
    for key, _ in store.scan(f"models/{name}/aliases/"):
        if match := _ALIAS.fullmatch(key):
            versions[match[1]] = read_document(store, key, Alias).version
    return versions


def promote(store: Store, ref: str, alias: str) -> ModelVersion:
    """Point `alias` at the version that `ref` means, and record the move in its history.

    Raises:
        InputError: `alias` cannot be an alias's name.
        NotFoundError: there is no such version.
    """
    if not re.fullmatch(NAME, alias) or alias.isdecimal():
        raise InputError(
            f"alias '{alias}': expected lower-case letters, digits, '.', '_' and '-', "
            "and not a number, which names a version"
        )
    version = get_model(store, ref)
    key = f"models/{version.name}/aliases/{alias}.json"
    while True:
        try:
            current = store.read(key)
        except ObjectNotFound:
            current = None
        before = current and parse_document(store, key, current.data, Alias)
        if before and before.version == version.version:
            return version
        now = datetime.now(UTC).isoformat()
        move = Move(**{"from": before and before.version}, to=version.version, when=now)
        history = (*before.history, move) if before else (move,)
        after = Alias(version=version.version, history=history)
        data = after.model_dump_json(indent=2, by_alias=True).encode()
        with contextlib.suppress(ObjectExists, ObjectChanged):
            if current:
                store.replace(key, data, current.etag)
            else:
                store.create(key, data)
            return version


def record_verdict(store: Store, ref: str, verdict: Verdict) -> None:
    """Store what a report shows of a version; the first verdict of a report is final."""
    version = get_model(store, ref)
    with contextlib.suppress(ObjectExists):
        store.create(
            f"{version.folder}/verdicts/{verdict.report}.json",
            verdict.model_dump_json(indent=1).encode(),
        )


def verdicts(store: Store, version: ModelVersion) -> list[Verdict]:
    """Return what reports have shown of a version, by report."""
    keys = [key for key, _ in store.scan(f"{version.folder}/verdicts/")]
    return [read_document(store, key, Verdict) for key in keys]


def check_promotion(store: Store, version: ModelVersion) -> list[str]:
    """Return what no report has shown of a version that is to be the champion, a line each.

    Raises:
        InputError: a report shows it to be worse than training from scratch, or the champion.
    """
    number = aliases(store, version.name).get(CHAMPION)
    champion = f"{version.name}@{number}"
    rivals = ["scratch"] if number in (None, version.version) else ["scratch", champion]
    judged = [verdict for verdict in verdicts(store, version) if verdict.against in rivals]
    if worse := [verdict for verdict in judged if verdict.outcome == "worse"]:
        reasons = "; ".join(f"worse than {v.against}: {v.why} ({v.report})" for v in worse)
        raise InputError(
            f"{version.ref} is shown to be {reasons}; "
            "promote another version, or insist with --force"
        )
    unshown = [
        f"{version.ref} is not shown to be better than {verdict.against}: {verdict.why}"
        for verdict in judged
        if verdict.outcome == "not shown"
    ]
    if champion in rivals and champion not in {verdict.against for verdict in judged}:
        unshown.append(
            f"{version.ref} was not compared with the champion {champion}: "
            f"graft models compare {champion} {version.ref}"
        )
    return unshown


def _folder(name: str, number: int) -> str:
    return f"models/{name}/versions/{number}"


def _scan(store: Store, prefix: str) -> list[tuple[str, int]]:
    """Return name and number of every committed version below `prefix`, in order."""
    matches = (_MARKER.fullmatch(key) for key, _ in store.scan(prefix))
    return sorted((match[1], int(match[2])) for match in matches if match)


def _numbers(store: Store, name: str) -> list[int]:
    return [number for _, number in _scan(store, f"models/{name}/versions/")]


def _read(store: Store, name: str, number: int) -> ModelVersion:
    return read_document(store, f"{_folder(name, number)}/model.json", ModelVersion)
