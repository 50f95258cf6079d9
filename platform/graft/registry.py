"""The registry: immutable model versions, the aliases that point at them, and their lineage.

A version is a trunk digest, the tail trained on that trunk, the preprocessing contract
and the golden images, by which a server proves that it computes what training did. The frozen
stages' weights stay where training put them, at ``stages/<digest>/``.
``versions/<n>/model.json`` makes version n exist; only aliases move. Beside it, ``verdicts/``
holds what reports have shown of the version.
"""

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from graft.errors import InputError, NotFoundError, ObjectChanged, ObjectExists, ObjectNotFound
from graft.spec import NAME, Contract, Digest, Head, Id, Name, Section, nearest
from graft.store import Marker, ObjectRef, Store, parse_document, read_document
from graft.store.retries import swaps

CHAMPION = "champion"
"""A model's bare name means the version that this alias points at, once it is set."""

Outcome = Literal["better", "worse", "not shown"]
Basis = Literal["shown", "unproven", "forced"]
Fence = Callable[[], object]
"""Raises RunFailed once a newer attempt has taken over what the caller works on."""

_MARKER = re.compile(r"models/([^/]+)/versions/([1-9]\d*)/model\.json")
_RUN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[1-9][0-9]*)?$"
_ALIAS = re.compile(r"models/[^/]+/aliases/([^/]+)\.json")


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


class Verdict(Section):
    """What a report shows of a version compared with another, or with training from scratch."""

    against: str
    """NAME@VERSION, or `scratch`."""
    outcome: Outcome
    """How the version compares, see `against`."""
    why: str
    """The figures that show it, on one line."""
    report: Id
    """The report's id."""


class Move(Section):
    """One time that an alias was set."""

    from_: int | None = Field(alias="from")
    """The version that the alias pointed at before; null: the alias was new."""
    to: int
    when: str
    """ISO 8601 in UTC."""
    who: str | None = None
    """Who moved it; null: an older release did not record that."""
    self_declared: bool = True
    """Whether `who` is only what the mover's machine says of itself: no server vouched for it."""
    command: str | None = None
    """The command that moved it, such as `graft models promote`."""
    basis: Basis | None = None
    """`shown`: reports show the version to be better than the champion before it or, where there
    was none, than training from scratch; `forced`: they show it to be worse, and a person insisted;
    `unproven`: they show neither. null: not recorded."""
    evidence: tuple[str, ...] = ()
    """What reports show of the version, a line each."""


class Alias(Section):
    """A pointer to a version, and how it got there."""

    version: int
    history: tuple[Move, ...]
    """Oldest first; the last one's `to` is `version`."""


@dataclass(frozen=True)
class Mover:
    """Who moves aliases, by which command, and what it looks up before the champion moves."""

    who: str
    command: str
    self_declared: bool = True
    consult: Callable[[Store, ModelVersion], object] | None = None
    """Records with a version what the store's reports show of it; None: nothing is looked up."""

    @classmethod
    def here(
        cls, command: str, consult: Callable[[Store, ModelVersion], object] | None = None
    ) -> "Mover":
        """Return the user of this machine's account, who is not known to be anybody."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            user = f"uid {os.getuid()}"
        return cls(f"{user}@{socket.gethostname()}", command, consult=consult)


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
        created: called with the version if this call has committed it, and not another before.

    Raises:
        StoreError: others take each number first.
    """
    turn = swaps(f"{store.uri}/models/{draft.name}/versions")
    while True:
        next(turn)
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
        if fence:
            fence()
        try:
            store.create(f"{folder}/model.json", version.model_dump_json(indent=2).encode())
        except ObjectExists:
            # Another run took the number: remove our payloads, but for those that are its, too.
            taken = _read(store, draft.name, number)
            for ref in {version.tail, version.golden} - {taken.tail, taken.golden}:
                store.delete(f"{folder}/{ref.name}")
        else:
            if created:
                created(version)
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


def promote(
    store: Store, ref: str, alias: str, mover: Mover | None = None, force: bool = False
) -> list[str]:
    """Point `alias` at the version that `ref` means, as a person asks, and record the move.

    `mover` is by default this machine's user. Returns what nothing shows of a new champion, a line
    each; see `check_promotion`.

    Raises:
        InputError: `alias` cannot be an alias's name; or it is the champion, `force` is not set,
            and a report shows the version to be worse than it, or than training from scratch.
        NotFoundError: there is no such version.
        StoreError: others move the alias without end.
    """
    if not re.fullmatch(NAME, alias) or alias.isdecimal():
        raise InputError(
            f"alias '{alias}': expected lower-case letters, digits, '.', '_' and '-', "
            "and not a number, which names a version"
        )
    return _move(store, get_model(store, ref), alias, mover or Mover.here("python"), force=force)


def promote_new(
    store: Store, version: ModelVersion, alias: str, mover: Mover, fence: Fence
) -> list[str]:
    """Point `alias` at a version that was registered just now, as its spec asks; see `promote`.

    The alias stays where it is if it points at a newer version already.

    Raises:
        InputError: as `promote`.
        RunFailed: `fence` raises it, just before the alias would move.
    """
    return _move(store, version, alias, mover, fence=fence)


def _move(
    store: Store,
    version: ModelVersion,
    alias: str,
    mover: Mover,
    force: bool = False,
    fence: Fence | None = None,
) -> list[str]:
    """Move an alias in one compare-and-swap, begun before all that decides whether it may move.

    With a `fence` it never moves to an older version.
    """
    champion = alias == CHAMPION
    if champion and mover.consult:
        mover.consult(store, version)
    key = f"models/{version.name}/aliases/{alias}.json"
    turn = swaps(f"{store.uri}/{key}")
    while True:
        next(turn)
        try:
            current = store.read(key)
        except ObjectNotFound:
            current = None
        before = current and parse_document(store, key, current.data, Alias)
        if before and before.version == version.version:
            return []
        if before and fence and before.version > version.version:
            return [f"{alias} stays at {version.name}@{before.version}, which is newer"]
        rival = before.version if before and champion else None
        evidence = _Evidence.of(store, version, rival)
        unshown = evidence.check(force) if champion else []
        move = Move(
            **{"from": before and before.version},
            to=version.version,
            when=datetime.now(UTC).isoformat(),
            who=mover.who,
            self_declared=mover.self_declared,
            command=mover.command,
            basis=evidence.basis(force and champion),
            evidence=evidence.lines,
        )
        history = (*before.history, move) if before else (move,)
        after = Alias(version=version.version, history=history)
        data = after.model_dump_json(indent=2, by_alias=True).encode()
        if fence:
            fence()
        with contextlib.suppress(ObjectExists, ObjectChanged):
            if current:
                store.replace(key, data, current.etag)
            else:
                store.create(key, data)
            return unshown


def alias_history(store: Store, name: str) -> list[tuple[str, Move]]:
    """Return every move of a model's aliases with the alias's name, oldest first.

    Raises:
        NotFoundError: no such model.
    """
    get_model(store, name)
    moves = []
    for key, _ in store.scan(f"models/{name}/aliases/"):
        if match := _ALIAS.fullmatch(key):
            moves += [(match[1], move) for move in read_document(store, key, Alias).history]
    return sorted(moves, key=lambda entry: entry[1].when)


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
    champion = aliases(store, version.name).get(CHAMPION)
    return _Evidence.of(store, version, champion).check(force=False)


@dataclass(frozen=True)
class _Evidence:
    """What reports show of a version that is to follow a champion."""

    version: ModelVersion
    champion: str | None
    """NAME@VERSION; None: there is none, or it is the version itself."""
    verdicts: tuple[Verdict, ...]
    """Against the champion, and against training from scratch."""

    @classmethod
    def of(cls, store: Store, version: ModelVersion, champion: int | None) -> "_Evidence":
        rival = None if champion in (None, version.version) else f"{version.name}@{champion}"
        judged = tuple(v for v in verdicts(store, version) if v.against in ("scratch", rival))
        return cls(version, rival, judged)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(
            f"{v.outcome}, against {v.against}: {v.why} ({v.report})" for v in self.verdicts
        )

    @property
    def _worse(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome == "worse"]

    def basis(self, force: bool) -> Basis:
        """Return what the move rests on; with `force`, a person insisted."""
        rival = self.champion or "scratch"
        if self._worse:
            return "forced" if force else "unproven"
        shown = any(v.outcome == "better" and v.against == rival for v in self.verdicts)
        return "shown" if shown else "unproven"

    def check(self, force: bool) -> list[str]:
        """Return what is not shown, a line each; without `force` refuse what is shown worse."""
        if self._worse and not force:
            reasons = "; ".join(
                f"worse than {v.against}: {v.why} ({v.report})" for v in self._worse
            )
            raise InputError(
                f"{self.version.ref} is shown to be {reasons}; "
                "promote another version, or insist with --force"
            )
        unshown = [
            f"{self.version.ref} is not shown to be better than {verdict.against}: {verdict.why}"
            for verdict in self.verdicts
            if verdict.outcome == "not shown"
        ]
        if self.champion and self.champion not in {verdict.against for verdict in self.verdicts}:
            unshown.append(
                f"{self.version.ref} was not compared with the champion {self.champion}: "
                f"graft models compare {self.champion} {self.version.ref}"
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
