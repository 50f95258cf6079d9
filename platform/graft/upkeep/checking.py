"""Checking a store: every committed thing against what its marker says, and every reference.

What is committed is what `reachability` reaches. A finding names the object, what was found and
expected, what is lost with it and what to do; damaged documents are findings as all else is.
"""

import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from graft.errors import ObjectNotFound, StoreError, StoreLost
from graft.registry import ModelVersion
from graft.store import Store, payload_digest
from graft.upkeep.contents import SPEC, Contents, workers
from graft.upkeep.damage import Damage, Mend, describe, mend_of, remedy
from graft.upkeep.indexes import check_indexes
from graft.upkeep.policy import Policy
from graft.upkeep.reachability import reachable
from graft.upkeep.references import Reference, kind_of

HASHERS = 8
"""Payloads that are read at once."""
CHUNK = 16 << 20
LARGEST_SKEW_S = 60.0
"""Seconds by which two clocks may differ: answers take their time, and tell whole seconds."""
NEVER = "99999d"
"""So that nothing counts as unused."""


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    documents: int
    payloads: int
    bytes: int
    """Of all payloads."""
    skew_s: float | None
    """Seconds by which the storage's clock is ahead of this machine's; None: it tells none."""
    damages: tuple[Damage, ...]
    """By key."""


@dataclass
class _Check:
    """A check under way."""

    contents: Contents
    reached: set[str]
    referrers: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By key, the documents that refer to it."""
    damages: dict[str, Damage] = field(default_factory=dict)

    def add(self, key: str, found: str, expected: str, mend: Mend | None = None) -> None:
        """Note damage; of an object, the first one."""
        lost = tuple(dict.fromkeys(describe(owner) for owner in self._owners(key)))
        mend = mend or mend_of(key)
        damage = Damage(key, found, expected, lost, remedy(key, mend), mend)
        self.damages.setdefault(key, damage)

    def _owners(self, key: str) -> list[str]:
        """Return what cannot do without an object: the documents to which nothing else refers."""
        owners, waiting, seen = list[str](), [key], set[str]()
        while waiting:
            each = waiting.pop()
            above = [up for up in self.referrers.get(each, ()) if up not in seen]
            seen |= set(above)
            waiting += above
            if not self.referrers.get(each) or isinstance(
                self.contents.document(each), ModelVersion
            ):
                owners.append(each)
        return sorted(owners)


def check(
    store: Store,
    quick: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Checked:
    """Check all that is committed in a store.

    Args:
        store: the store.
        quick: compare sizes only, and read no payload.
        progress: called with how many payloads are read, and of how many.

    Raises:
        StoreError: the store cannot be read.
    """
    contents = Contents.of(store, every=True)
    policy = Policy(activations_unused=NEVER, drafts_unused=NEVER)
    going = _Check(contents, reachable(contents, policy, time.time()))
    wanted = _references(going)
    for key, error in contents.damaged.items():
        if key in going.reached:
            kind = kind_of(key)
            name = "recorded spec" if SPEC.fullmatch(key) else kind.name if kind else "document"
            going.add(key, _reason(store, key, error), f"the document of a {name}")
    _check_pointers(going)
    _check_names(going)
    for damage in check_indexes(contents):
        going.damages.setdefault(damage.key, damage)
    _check_payloads(going, wanted, quick, progress)
    skew = clock_skew(store)
    if skew is not None and abs(skew) > LARGEST_SKEW_S:
        going.damages["clock"] = skewed(skew)
    return Checked(
        documents=sum(1 for key in going.reached if kind_of(key) or SPEC.fullmatch(key)),
        payloads=len(wanted),
        bytes=sum(reference.size or 0 for reference in wanted.values()),
        skew_s=skew,
        damages=tuple(going.damages[key] for key in sorted(going.damages)),
    )


def clock_skew(store: Store) -> float | None:
    """Return by how many seconds the storage's clock is ahead; None: it tells no time here."""
    before = time.time()
    try:
        theirs = store.clock()
    except StoreLost:
        raise
    except StoreError:  # who may only read makes no file to ask for its time
        return None
    return theirs - (before + time.time()) / 2


def skewed(skew_s: float) -> Damage:
    """Return the finding that two clocks differ."""
    ahead = "ahead of" if skew_s > 0 else "behind"
    return Damage(
        key="clock",
        found=f"the store's clock is {abs(skew_s):,.0f} s {ahead} this machine's",
        expected=f"up to {LARGEST_SKEW_S:.0f} s",
        lost=(),
        remedy="set this machine's clock, or the server's, by NTP: S3 refuses requests that are "
        "15 minutes off, and times in lists mislead",
        mend=None,
    )


def _references(going: _Check) -> dict[str, Reference]:
    """Note what refers to what, and what leads nowhere; return the payloads that are there."""
    contents, wanted = going.contents, dict[str, Reference]()
    for key in sorted(going.reached):
        for reference in contents.references(key):
            going.referrers[reference.key].append(key)
            wanted.setdefault(reference.key, reference)
    for key, reference in list(wanted.items()):
        entry = contents.entries.get(key)
        if entry is None and _is_lost(going, key):
            what = "a document" if reference.size is None else f"{reference.size:,} bytes"
            going.add(key, "there is nothing", f"{what}, to which {going.referrers[key][0]} refers")
        elif entry and reference.size not in (None, entry.size):
            says = f"as {going.referrers[key][0]} says"
            going.add(key, f"{entry.size:,} bytes", f"{reference.size:,} bytes, {says}")
        elif entry and reference.size is not None:
            continue
        del wanted[key]
    # Payloads that something unfinished has, or that a record names alone.
    for key in going.reached:
        digest = payload_digest(key)
        if digest and key not in wanted and key not in going.damages:
            wanted[key] = Reference(key, contents.entries[key].size, digest)
    return wanted


def _is_lost(going: _Check, key: str) -> bool:
    """Whether an object is not there, and something still refers to it.

    Since the listing, it may have been written, or what refers to it removed.
    """
    store = going.contents.store
    with contextlib.suppress(StoreError):  # such as for a name that no object can have
        return not store.exists(key) and any(map(store.exists, going.referrers[key]))
    return True


def _check_pointers(going: _Check) -> None:
    """Check that each dataset's `latest` points at a version."""
    contents = going.contents
    for name in contents.folders("datasets/"):
        key = f"datasets/{name}/latest"
        data = contents.read(key) if key in contents.entries else None
        if data is not None:
            version = data.decode(errors="replace")
            manifest = f"datasets/{name}/{version}/manifest.json"
            going.referrers[manifest].append(key)
            if manifest not in contents.entries and _is_lost(going, manifest):
                going.add(key, f"{version[:40]!r}", f"a version of {name}", Mend.LATEST)


def _check_names(going: _Check) -> None:
    """Check that what is finished has the spec by which it is found."""
    contents = going.contents
    for sort in ("runs", "sweeps"):
        for name in contents.folders(f"{sort}/"):
            key = f"{sort}/{name}/spec.yaml"
            if f"{sort}/{name}/result.json" in contents.entries and key not in contents.entries:
                going.add(key, "there is nothing", "the spec of what is finished")


def _check_payloads(
    going: _Check, wanted: dict[str, Reference], quick: bool, progress: Callable[[int, int], object]
) -> None:
    """Read payloads, and compare their SHA-256."""
    if quick:
        return
    store = going.contents.store

    def read(reference: Reference) -> str | Exception:
        try:
            return digest_of(store, reference)
        except StoreLost:
            raise
        except StoreError as error:
            return error

    with workers(HASHERS) as pool:
        results = pool.map(read, wanted.values())
        for done, (reference, found) in enumerate(zip(wanted.values(), results, strict=True), 1):
            progress(done, len(wanted))
            if isinstance(found, ObjectNotFound) and not _is_lost(going, reference.key):
                continue
            if isinstance(found, Exception):
                going.add(reference.key, _reason(store, reference.key, found), "to be read")
            elif found != reference.sha256:
                says = next(iter(going.referrers[reference.key]), "its name")
                expected = f"{reference.sha256}, as {says} says"
                going.add(reference.key, f"SHA-256 {found}", expected)


def digest_of(store: Store, reference: Reference) -> str:
    """Return the SHA-256 of a payload, which is read in parts.

    Raises:
        StoreError: it cannot be read.
    """
    digest, size = hashlib.sha256(), reference.size or 0
    for start in range(0, size, CHUNK):
        digest.update(store.read_range(reference.key, start, min(CHUNK, size - start)))
    return digest.hexdigest()


def _reason(store: Store, key: str, error: Exception) -> str:
    """Return why an object cannot be used, without its location, which stands before it."""
    return str(error).removeprefix(f"{store.uri}/{key}").lstrip(": ")
