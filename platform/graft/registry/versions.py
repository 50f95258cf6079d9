"""Model versions: immutable; ``versions/<n>/model.json`` makes version n of a model exist.

The frozen stages' weights stay where training put them, at ``stages/<digest>/``.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from graft.errors import ObjectExists
from graft.spec import Contract, Digest, Head, Id, Name, Section
from graft.store import Marker, ObjectRef, Store, Tell, document_bytes, read_document
from graft.store.index import indexed_rows
from graft.store.retries import swaps

Fence = Callable[[], object]
"""Raises RunFailed once a newer attempt has taken over what the caller works on."""

_MARKER = re.compile(r"models/([^/]+)/versions/([1-9]\d*)/model\.json")
REMOVED = "removed.json"
"""Beside what was a version's marker: its number is never given to another one."""
_NUMBER = re.compile(r"models/[^/]+/versions/([1-9]\d*)/(?:model|removed)\.json")
_RUN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[1-9][0-9]*)?$"


class Lineage(Section):
    """Where a model version comes from."""

    run: Annotated[str, Field(pattern=_RUN)]
    """Id of the run that trained it; a sweep's trial is SWEEP/NUMBER."""
    sweep: Id | None = None
    """Id of the sweep that found it best."""
    dataset: Name
    """The dataset's name."""
    dataset_version: Id
    spec: dict[str, Any]
    """The run's recorded spec, everything in it resolved."""
    weights: str
    """Where the backbone's initial weights came from, as recorded."""
    weights_sha256: Digest | None
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
    stages: tuple[Digest, ...]
    """Chain digests c[1]..c[d]; a frozen stage's weights are at ``stages/<digest>/``."""
    trunk_digest: Digest
    """c[d]."""
    metrics: dict[str, Any]
    """What the registered weights reached in validation."""
    weights: Literal["best", "last"]
    """Which of the run's weights these are."""
    epoch: int
    """The epoch after which training had those weights."""
    lineage: Lineage


class ModelVersion(ModelDraft, Marker):
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


class VersionRow(Section):
    """What lists tell of a version: a row of its model's index."""

    version: int
    run: str
    """`Lineage.run`."""
    dataset: str
    """Name of the dataset that it was trained on."""
    arch: str
    classes: int
    """Number of classes."""
    metrics: dict[str, dict[str, float]]
    """As `ModelDraft.metrics`, single numbers alone."""
    created: str
    """ISO 8601 in UTC."""

    @classmethod
    def of(cls, version: ModelVersion) -> "VersionRow":
        """Return a version's row."""
        return cls(
            version=version.version,
            run=version.lineage.run,
            dataset=version.lineage.dataset,
            arch=version.arch,
            classes=len(version.classes),
            metrics={
                part: {name: value for name, value in values.items() if isinstance(value, float)}
                for part, values in version.metrics.items()
            },
            created=version.created,
        )


def register(
    store: Store,
    draft: ModelDraft,
    tail: bytes,
    golden: bytes,
    fence: Fence | None = None,
    created: Callable[[ModelVersion], object] | None = None,
) -> ModelVersion:
    """Commit the next version of a model, and return it.

    A run registers at most one version of a model: if `draft.lineage.run` has registered one
    already, that one is returned and nothing is written.

    Args:
        store: where to.
        draft: all but the number.
        tail: see `ModelVersion.tail`.
        golden: see `ModelVersion.golden`.
        fence: called just before the version is committed.
        created: called with the version if this call committed it, and no earlier one had.

    Raises:
        StoreError: others take each number first.
    """
    turn = swaps(f"{store.uri}/models/{draft.name}/versions")
    while True:
        next(turn)
        rows = list_versions(store, draft.name)
        for row in reversed(rows):
            if row.run == draft.lineage.run:
                return read_version(store, draft.name, row.version)
        number = _last_number(store, draft.name) + 1
        folder = _folder(draft.name, number)
        version = ModelVersion(
            **dict(draft),
            version=number,
            created=datetime.now(UTC).isoformat(),
            tail=store.put(folder, "tail.safetensors", tail),
            golden=store.put(folder, "golden.safetensors", golden),
        )
        if fence:
            fence()
        try:
            store.create(f"{folder}/model.json", document_bytes(version))
        except ObjectExists:
            # Another run took the number: remove our payloads, but for those that are its, too.
            winner = read_version(store, draft.name, number)
            for ref in {version.tail, version.golden} - {winner.tail, winner.golden}:
                store.delete(f"{folder}/{ref.name}")
        else:
            if created:
                created(version)
            return version


class RemovedVersion(Section):
    """The marker ``removed.json``."""

    who: str
    when: str
    """ISO 8601 in UTC."""


def remove_version(store: Store, version: ModelVersion, who: str) -> None:
    """Remove a version from the registry; its files stay until `graft gc` removes them.

    No other version ever gets its number, which reports and records may name.
    """
    gone = RemovedVersion(who=who, when=datetime.now(UTC).isoformat())
    with contextlib.suppress(ObjectExists):
        store.create(f"{version.folder}/{REMOVED}", document_bytes(gone))
    store.delete(f"{version.folder}/model.json")


def _last_number(store: Store, name: str) -> int:
    """Return the highest number that a version of a model has, or had; 0 without any."""
    matches = (_NUMBER.fullmatch(key) for key, _ in store.scan(f"models/{name}/versions/"))
    return max((int(match[1]) for match in matches if match), default=0)


def list_models(store: Store, tell: Tell | None = None) -> dict[str, list[VersionRow]]:
    """Return a row for every version of every model, by name and number.

    `tell` is told of damaged versions, which are left out then.
    """
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for name, number in _scan(store, "models/"):
        numbers[name].append(number)
    return {name: _rows(store, name, of_name, tell) for name, of_name in numbers.items()}


def model_names(store: Store) -> list[str]:
    """Return the names of all models that have a version."""
    return sorted({name for name, _ in _scan(store, "models/")})


def list_versions(store: Store, name: str) -> list[VersionRow]:
    """Return a row for every version of a model, by number."""
    return _rows(store, name, version_numbers(store, name))


def version_numbers(store: Store, name: str) -> list[int]:
    """Return the numbers of a model's versions, in order."""
    return [number for _, number in _scan(store, f"models/{name}/versions/")]


def read_version(store: Store, name: str, number: int) -> ModelVersion:
    """Return a version by its number."""
    return read_document(store, f"{_folder(name, number)}/model.json", ModelVersion)


def _rows(
    store: Store, name: str, numbers: Iterable[int], tell: Tell | None = None
) -> list[VersionRow]:
    rows = indexed_rows(
        store,
        f"models/{name}/index.json",
        VersionRow,
        [str(number) for number in numbers],
        lambda number: VersionRow.of(read_version(store, name, int(number))),
        tell=tell,
    )
    return list(rows.values())


def _scan(store: Store, prefix: str) -> list[tuple[str, int]]:
    """Return name and number of every committed version below `prefix`, in order."""
    matches = (_MARKER.fullmatch(key) for key, _ in store.scan(prefix))
    return sorted((match[1], int(match[2])) for match in matches if match)


def _folder(name: str, number: int) -> str:
    return f"models/{name}/versions/{number}"
