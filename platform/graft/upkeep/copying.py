"""Copying a model, a dataset or all of a store to another store: payloads first, markers last.

What is there already is not sent again, so that a copy that was stopped goes on, and the next one
of a store brings what is new. Every payload is checked against its SHA-256 as it lies in the
target. What is not finished is left out, and what nothing needs. A thing that the target has under
the same name, and is another one, ends it before anything is written.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graft.cluster.job_records import JobRecord
from graft.data.manifest import full_version
from graft.errors import InputError, ObjectChanged, ObjectDamaged, ObjectExists, ObjectNotFound
from graft.registry import Alias, ModelVersion, get_model
from graft.store import Store, is_payload, parse_document, payload_digest, sha256
from graft.store.retries import swaps
from graft.upkeep.checking import NEVER, digest_of
from graft.upkeep.contents import Contents, workers
from graft.upkeep.damage import INDEX, describe
from graft.upkeep.policy import Policy
from graft.upkeep.reachability import reachable
from graft.upkeep.references import Reference

AT_ONCE = 8
"""Objects that are on their way at once."""
CHUNK = 16 << 20
SHOWN = 5
_LATEST = re.compile(r"datasets/[^/]+/latest")
_ALIAS = re.compile(r"models/[^/]+/aliases/[^/]+\.json")
_MOVED = re.compile(r".*/(head|job|sent|amendments|progress)\.json|.*/engines/[^/]+\.json")
"""Pointers that follow what they belong to."""
_NOT_COPIED = re.compile(
    r"gc/.*|.*/lease\.json|.*\.lease|activations/claims/.*|activations/.*/used/.*|jobs/[^/]+/told/.*"
)
_LAST = ("/result.json", "/report.json", "/import.json", "/prediction.json", "/spec.yaml")
"""What makes something finished, or exist, in this order; before pointers."""
_FINISHED = {
    "runs": "result.json",
    "sweeps": "result.json",
    "reports": "report.json",
    "imports": "import.json",
    "predictions": "prediction.json",
}


@dataclass(frozen=True)
class Wanted:
    """What is copied."""

    models: tuple[str, ...] = ()
    """NAME[@VERSION|@ALIAS]."""
    datasets: tuple[str, ...] = ()
    """NAME[@VERSION]."""
    activations: bool = True
    """Of all of a store: whether what it caches comes, too."""
    with_datasets: bool = False
    """Whether the datasets that the models were trained on come, too."""

    @property
    def all(self) -> bool:
        """Whether all of the store is."""
        return not (self.models or self.datasets)


@dataclass
class Plan:
    """What a copy takes."""

    keys: list[str]
    """In the order in which they are written."""
    left_out: list[str] = field(default_factory=list)
    """What is not finished, for people."""


@dataclass(frozen=True)
class Copied:
    """What a copy did."""

    objects: int
    """All that was to be there."""
    bytes: int
    sent: int
    """Objects that were not there already."""
    sent_bytes: int
    left_out: tuple[str, ...]


def copy(
    source: Store,
    target: Store,
    wanted: Wanted,
    quick: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Copied:
    """Copy models, datasets, or all of a store to another one.

    Args:
        source: where they are.
        target: where they go; what else is there stays.
        wanted: what is copied.
        quick: trust a payload in the target that has the right size, and read none back.
        progress: called with how many objects are there, and of how many.

    Raises:
        InputError: the target has another thing under the same name, or they are one store.
        NotFoundError: there is no such model or dataset.
        StoreError: the source is damaged, or a store fails; the same command goes on from there.
    """
    if source.uri == target.uri:
        raise InputError(f"{source.uri} is both: a store cannot be copied to itself")
    contents = Contents.of(source)
    plan = _plan(contents, wanted)
    missing = _missing(contents, target, plan.keys)
    target.rely_on(sorted({key.rpartition("/")[0] + "/" for key in plan.keys if "/" in key}))
    payloads = [key for key in plan.keys if is_payload(key)]
    sizes = {key: contents.entries[key].size for key in plan.keys}
    sent = list[str]()
    with (
        tempfile.TemporaryDirectory(prefix="graft-copy-") as scratch,
        workers(AT_ONCE) as pool,
    ):

        def bring(key: str) -> bool:
            return _bring(source, target, key, sizes[key], quick, Path(scratch))

        for done, (key, new) in enumerate(zip(payloads, pool.map(bring, payloads), strict=True), 1):
            sent += [key] * new
            progress(done, len(plan.keys))
    for done, key in enumerate(plan.keys[len(payloads) :], len(payloads) + 1):
        if key in missing:
            _write(contents, target, key)
            sent.append(key)
        progress(done, len(plan.keys))
    return Copied(
        objects=len(plan.keys),
        bytes=sum(sizes.values()),
        sent=len(sent),
        sent_bytes=sum(sizes[key] for key in sent),
        left_out=tuple(plan.left_out),
    )


def _plan(contents: Contents, wanted: Wanted) -> Plan:
    """Return what is copied, in order.

    Raises:
        ObjectDamaged: it is damaged in the source.
    """
    if wanted.all:
        plan = _everything(contents, wanted.activations)
    else:
        plan = Plan(list(_named(contents, wanted)))
    chosen = set(plan.keys)
    if damaged := [key for key in contents.damaged if key in chosen]:
        raise ObjectDamaged(f"{contents.damaged[damaged[0]]}; graft fsck names all that is damaged")
    for key in plan.keys:
        for reference in contents.references(key):
            if reference.key not in contents.entries:
                raise ObjectNotFound(
                    f"{contents.store.uri}/{reference.key} does not exist, and {key} needs it; "
                    "graft fsck says what is lost with it"
                )
    payloads = sorted(key for key in chosen if is_payload(key))
    others = [key for key in _after_what_they_need(contents, chosen) if not is_payload(key)]
    plan.keys = payloads + sorted(others, key=_rank)
    return plan


def _rank(key: str) -> int:
    """Return when something is written: what makes a thing exist last, then pointers."""
    if _ALIAS.fullmatch(key) or _LATEST.fullmatch(key):
        return len(_LAST) + 1
    return next((n for n, end in enumerate(_LAST, 1) if key.endswith(end)), 0)


def _after_what_they_need(contents: Contents, keys: set[str]) -> Iterator[str]:
    """Yield keys, each after those to which it refers."""
    done, begun = set[str](), set[str]()
    waiting = sorted(keys, reverse=True)
    while waiting:  # not by recursion: who may write to a store may write a chain without end
        key = waiting[-1]
        needed = [ref.key for ref in contents.references(key)] if key not in begun else []
        begun.add(key)
        if ahead := [other for other in needed if other in keys and other not in begun]:
            waiting += ahead
            continue
        waiting.pop()
        if key not in done:
            done.add(key)
            yield key


def _everything(contents: Contents, activations: bool) -> Plan:
    """Return all that is needed and finished."""
    policy = Policy(activations_unused=NEVER, drafts_unused=NEVER)
    unfinished = tuple(_unfinished(contents))
    left_out = unfinished if activations else (*unfinished, "activations/")
    keys = {
        key
        for key in reachable(contents, policy, 0.0)
        if not (is_payload(key) or _NOT_COPIED.fullmatch(key) or INDEX.fullmatch(key))
        if not key.startswith(left_out) and _job_of_time(key) not in unfinished
    }
    # Payloads for what is copied, and not those of an import that is not finished.
    keys |= {reference.key for key in keys for reference in contents.references(key)}
    return Plan(
        sorted(keys), [f"{describe(folder)}, which is not finished" for folder in unfinished]
    )


def _job_of_time(key: str) -> str:
    """Return the folder of the job whose time a key is; '' where it is none."""
    area, _, name = key.partition("/")
    return f"jobs/{name.partition('-')[2]}/" if area == "job-times" else ""


def _unfinished(contents: Contents) -> Iterator[str]:
    for area, marker in _FINISHED.items():
        for name in contents.folders(f"{area}/"):
            if f"{area}/{name}/{marker}" not in contents.entries:
                yield f"{area}/{name}/"
    for name in contents.folders("jobs/"):
        record = contents.find(f"jobs/{name}/job.json", JobRecord)
        if record is None or record.ended is None:
            yield f"jobs/{name}/"


def _named(contents: Contents, wanted: Wanted) -> Iterator[str]:
    """Yield what models and datasets consist of, without aliases: these a person moves."""
    store, keys = contents.store, list[str]()
    datasets = list(wanted.datasets)
    for ref in wanted.models:
        version = get_model(store, ref)
        keys += _of_model(contents, version)
        if wanted.with_datasets:
            datasets.append(f"{version.lineage.dataset}@{version.lineage.dataset_version}")
    for ref in datasets:
        name, _, version_name = ref.partition("@")
        full = full_version(store, name, version_name or "latest")
        keys.append(f"datasets/{name}/{full}/manifest.json")
    seen = set[str]()
    while keys:
        key = keys.pop()
        if key not in seen:
            seen.add(key)
            keys += [reference.key for reference in contents.references(key)]
    yield from sorted(seen)


def _of_model(contents: Contents, version: ModelVersion) -> list[str]:
    """Return the documents of a version, what it promised on which images, and its weights file."""
    folder = f"{version.folder}/"
    below = [*contents.below(folder), *contents.below(f"models/{version.name}/tried/")]
    keys = [key for key in below if not (is_payload(key) or _NOT_COPIED.fullmatch(key))]
    if digest := version.lineage.weights_sha256:
        keys += [key for key in contents.below(f"weights/{digest}/") if not is_payload(key)]
    return keys


def _missing(contents: Contents, target: Store, keys: Sequence[str]) -> set[str]:
    """Return the documents that the target lacks, or has as they were.

    Raises:
        InputError: it has other ones.
    """
    documents = [key for key in keys if not is_payload(key)]
    there = dict(target.scan(""))
    source = contents.store

    def compare(key: str) -> str | None:
        if key not in there:
            return key
        theirs, mine = target.read(key).data, source.read(key).data
        if theirs == mine:
            return None
        if _MOVED.fullmatch(key) or _follows(contents, target, key, theirs):
            return key
        raise InputError(
            f"{target.uri}/{key} ({len(theirs):,} bytes, SHA-256 {sha256(theirs)[:12]}…) is not "
            f"what {source.uri}/{key} is ({len(mine):,} bytes, {sha256(mine)[:12]}…): each has a "
            f"{describe(key)} of its own. Nothing was copied; remove one of them, or copy to "
            "another store"
        )

    with workers(AT_ONCE) as pool:
        return {key for key in pool.map(compare, documents) if key}


def _follows(contents: Contents, target: Store, key: str, theirs: bytes) -> bool:
    """Whether a pointer of the target is where the source's was once, so that it may move on."""
    if _LATEST.fullmatch(key):
        name, version = key.split("/")[1], theirs.decode(errors="replace")
        return f"datasets/{name}/{version}/manifest.json" in contents.entries
    alias = contents.find(key, Alias)
    if alias is None:
        return False
    before = parse_document(target, key, theirs, Alias)
    return alias.history[: len(before.history)] == before.history


def _bring(source: Store, target: Store, key: str, size: int, quick: bool, scratch: Path) -> bool:
    """Have a payload in the target; return whether it was sent.

    Raises:
        ObjectDamaged: it is not what its name says, in the source or after it was sent.
    """
    reference = Reference(key, size, payload_digest(key))
    if target.size(key) == size and (quick or digest_of(target, reference) == reference.sha256):
        return False
    file = scratch / sha256(key.encode())
    try:
        with file.open("wb") as written:
            for start in range(0, size, CHUNK):
                written.write(source.read_range(key, start, min(CHUNK, size - start)))
        _verify(Store.open(str(scratch)), Reference(file.name, size, reference.sha256), source, key)
        target.upload(key, file)
    finally:
        file.unlink(missing_ok=True)
    if not quick:
        _verify(target, reference, target, key)
    return True


def _verify(store: Store, reference: Reference, shown: Store, key: str) -> None:
    found = digest_of(store, reference)
    if found != reference.sha256:
        raise ObjectDamaged(
            f"{shown.uri}/{key} is damaged: its SHA-256 is {found[:12]}…, its name says "
            f"{(reference.sha256 or '')[:12]}…; graft fsck says what is lost with it"
        )


def _write(contents: Contents, target: Store, key: str) -> None:
    """Write a document, or move a pointer on.

    Raises:
        InputError: somebody else has written another one meanwhile.
    """
    data = contents.store.read(key).data
    if _MOVED.fullmatch(key):
        target.point(key, data)
        return
    for _ in swaps(f"{target.uri}/{key}"):
        with contextlib.suppress(ObjectExists, ObjectChanged):
            try:
                current = target.read(key)
            except ObjectNotFound:
                target.create(key, data)
                return
            if current.data != data and not _follows(contents, target, key, current.data):
                raise InputError(
                    f"{target.uri}/{key} was changed by others meanwhile; the copy is there but "
                    f"for {describe(key)}, and what comes after it"
                )
            target.replace(key, data, current.etag)
            return
