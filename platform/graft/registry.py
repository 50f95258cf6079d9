"""The registry: immutable model versions, the aliases that point at them, and their lineage.

A version is a trunk digest, the tail trained on that trunk, the preprocessing contract
and the golden images that prove a server right. The frozen stages' weights stay where
training put them, at ``stages/<digest>/``. ``versions/<n>/model.json`` makes version n
exist; only aliases move. What reports have shown of a version is beside it, in ``verdicts/``.
"""

import contextlib
import re
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from graft.errors import (
    InputError,
    NotFoundError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StoreError,
)
from graft.spec import NAME, Contract, Head, Name, Section, nearest
from graft.store import ObjectRef, Store

CHAMPION = "champion"
"""The alias that a model's bare name stands for, once it is set."""

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
    """SHA-256 of the file they came in; null where there was none."""
    packages: dict[str, str]
    """Versions of the packages that trained it."""
    git_commit: str | None
    """Commit of the code, where it ran from a checkout."""


class ModelDraft(Section):
    """A model version before it has a number."""

    name: Name
    arch: str
    """Architecture, as `backbone.arch` in a spec."""
    head: Head
    dropout: float | None
    """Dropout probability it was trained with; null: the architecture's own."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    contract: Contract
    """From an image file's bytes to the tensor."""
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
    """The epoch they were reached in."""
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
    """What a report shows of a version next to another one, or to training from scratch."""

    against: str
    """NAME@VERSION, or `scratch`."""
    outcome: Outcome
    """Of the version that this is a verdict on."""
    why: str
    """The figures, on a line."""
    report: str
    """Id of what shows it."""


class Move(Section):
    """One move of an alias."""

    from_: int | None = Field(alias="from")
    """The version it pointed at before; null: it was new."""
    to: int
    when: str
    """ISO 8601 in UTC."""


class Alias(Section):
    """A pointer to a version, and how it got there."""

    version: int
    history: tuple[Move, ...]
    """Oldest first; the last one's `to` is `version`."""


def register(store: Store, draft: ModelDraft, tail: bytes, golden: bytes) -> ModelVersion:
    """Commit the next version of a model; a run registers at most one version of it.

    Args:
        store: where to.
        draft: all but the number; `lineage.run` identifies the registration, so that
            a second one returns what the first one made.
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
            # Another run took the number. Its payloads stay, ours go: no marker names them.
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
    name, at, which = ref.partition("@")
    numbers = _numbers(store, name) if re.fullmatch(NAME, name) else []
    if not numbers:
        known = sorted({name for name, _ in _scan(store, "models/")})
        raise NotFoundError(
            f"no model '{name}' in {store.uri}{nearest(name, known)}"
            + ("" if known else "; it has none yet, `graft train` registers them")
        )
    pointers = aliases(store, name)
    if not at:
        number = pointers.get(CHAMPION, numbers[-1])
    elif which.isdecimal() and int(which) in numbers:
        number = int(which)
    elif which in pointers:
        number = pointers[which]
    else:
        known = [*pointers, *map(str, reversed(numbers))]
        raise NotFoundError(
            f"model '{name}' has no version or alias '{which}'{nearest(which, known)}"
        )
    return _read(store, name, number)


def list_models(store: Store) -> list[ModelVersion]:
    """Return every version of every model, by name and number."""
    return [_read(store, name, number) for name, number in _scan(store, "models/")]


def aliases(store: Store, name: str) -> dict[str, int]:
    """Return a model's aliases and the versions they point at."""
    found = {}
    for key, _ in store.scan(f"models/{name}/aliases/"):
        if match := _ALIAS.fullmatch(key):
            found[match[1]] = Alias.model_validate_json(store.read(key).data).version
    return found


def promote(store: Store, ref: str, alias: str) -> ModelVersion:
    """Point `alias` at the version that `ref` means, and record the move beside it.

    Raises:
        InputError: not a name for an alias.
        NotFoundError: no such version.
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
        before = current and Alias.model_validate_json(current.data)
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
    """Keep what a report shows of a version; one that is kept already stays."""
    version = get_model(store, ref)
    with contextlib.suppress(ObjectExists):
        store.create(
            f"{version.folder}/verdicts/{verdict.report}.json",
            verdict.model_dump_json(indent=1).encode(),
        )


def verdicts(store: Store, version: ModelVersion) -> list[Verdict]:
    """Return what reports have shown of a version, by report."""
    keys = [key for key, _ in store.scan(f"{version.folder}/verdicts/")]
    return [Verdict.model_validate_json(store.read(key).data) for key in keys]


def check_promotion(store: Store, version: ModelVersion) -> list[str]:
    """Return what is not shown of a version that is to be the champion, a line each.

    Raises:
        InputError: it is shown to be worse than training from scratch, or than the champion.
    """
    number = aliases(store, version.name).get(CHAMPION)
    champion = f"{version.name}@{number}"
    rivals = ["scratch"] if number in (None, version.version) else ["scratch", champion]
    found = [verdict for verdict in verdicts(store, version) if verdict.against in rivals]
    if worse := [verdict for verdict in found if verdict.outcome == "worse"]:
        told = "; ".join(f"worse than {v.against}: {v.why} ({v.report})" for v in worse)
        raise InputError(
            f"{version.ref} is shown to be {told}; promote another version, or insist with --force"
        )
    unshown = [
        f"{version.ref} is not shown to be better than {verdict.against}: {verdict.why}"
        for verdict in found
        if verdict.outcome == "not shown"
    ]
    if champion in rivals and champion not in {verdict.against for verdict in found}:
        unshown.append(
            f"{version.ref} was not compared with the champion {champion}: "
            f"graft models compare {champion} {version.ref}"
        )
    return unshown


def _folder(name: str, number: int) -> str:
    return f"models/{name}/versions/{number}"


def _scan(store: Store, prefix: str) -> list[tuple[str, int]]:
    """Return name and number of every committed version below `prefix`, in order."""
    found = (_MARKER.fullmatch(key) for key, _ in store.scan(prefix))
    return sorted((match[1], int(match[2])) for match in found if match)


def _numbers(store: Store, name: str) -> list[int]:
    return [number for _, number in _scan(store, f"models/{name}/versions/")]


def _read(store: Store, name: str, number: int) -> ModelVersion:
    key = f"{_folder(name, number)}/model.json"
    try:
        return ModelVersion.model_validate_json(store.read(key).data)
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}/{key} is not a model version that this release of Graft reads "
            f"({error.error_count()} problems, first: {error.errors()[0]['msg']}); "
            "it is damaged, or a newer release wrote it"
        ) from error
