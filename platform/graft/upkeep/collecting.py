"""Collecting garbage: what nothing needs is marked, and removed a grace period later.

A pass lists the store, and marks what is older than the grace period and unreachable. Of what an
earlier pass marked so long ago, and nobody has written since, it claims what is to go; lists the
store once more; and removes what is unreachable still: documents first, then payloads, so that
nothing there is refers to something that is not. Why nobody can rely on what is claimed:
`graft.store.marks`. All times are the storage's own, so that no machine's clock decides.

gc/marks/<area>.json   see `graft.store.marks`
gc/lease.json          which collector is at work
"""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from graft.activations.lease import DEFAULT_TERMS, hold_lease
from graft.errors import InputError
from graft.store import Store, is_payload
from graft.store.backend import Entry
from graft.store.marks import Mark, Marks, area_of, move_marks, read_marks
from graft.store.retries import swaps
from graft.training.attempt_pointer import hold_attempt
from graft.upkeep.contents import Contents, workers
from graft.upkeep.policy import Policy
from graft.upkeep.reachability import AREAS, reachable, with_all_referred
from graft.upkeep.references import kind_of

AT_ONCE = 16
"""Objects that are removed at once."""
CLAIMED = 100_000
"""Most objects of a pass that are claimed before they are removed: writers may wait for these."""
LOCK = ".lock"
_DRAFT = re.compile(r"(imports|predictions)/[^/]+/")
OTHER = {
    "datasets": "images of no version",
    "models": "files of no version",
    "stages": "stages of no version",
    "exports": "graphs of no version",
    "weights": "weights that no job names",
    "runs": "removed runs",
    "sweeps": "removed sweeps",
    "reports": "removed reports",
    "imports": "drafts of imports",
    "predictions": "drafts of predictions",
    "activations": "activations",
}
"""What is unreachable, by its top folder."""


@dataclass(frozen=True)
class Garbage:
    """An object that nothing needs, and that is older than the grace period."""

    entry: Entry
    what: str
    """What it is, for people."""
    age_s: float
    """Seconds since it was written."""
    ripe: bool = False
    """Whether it was marked so long ago that it goes in the next pass, or in this one."""


@dataclass(frozen=True)
class Survey:
    """What of a store nothing needs."""

    garbage: tuple[Garbage, ...]
    """By key."""
    young: tuple[Entry, ...]
    """What nothing needs as yet, and is younger than the grace period."""
    objects: int
    """All of the store's."""
    bytes: int
    unreadable: tuple[str, ...]
    """Why nothing can be removed, a line each: documents that may refer to anything."""


@dataclass(frozen=True)
class Collected:
    """What a pass did."""

    removed: tuple[Garbage, ...]
    marked: int
    """Objects that are marked now, and go in a later pass."""


@dataclass(frozen=True)
class _Found:
    """A listing, and what in it is unreachable."""

    contents: Contents
    reached: set[str]
    now: float

    @classmethod
    def of(cls, store: Store, policy: Policy, given_up: Collection[str] = ()) -> "_Found":
        contents = Contents.of(store)
        now = store.clock()
        reached = reachable(contents, policy, now, given_up)
        # What is young stays, with all that it refers to.
        unreached = (e for key, e in contents.entries.items() if key not in reached)
        young = [e.key for e in unreached if _age(e, now) < policy.grace_s]
        kept = with_all_referred(contents, reached, young) - set(young)
        return cls(contents, kept | reached, now)

    def survey(self, policy: Policy, temporaries: Iterable[Entry]) -> Survey:
        entries = self.contents.entries
        unreached = [entry for key, entry in entries.items() if key not in self.reached]
        unreached += [e for e in temporaries if not _is_lock_in_use(e.key, entries)]
        old = [entry for entry in unreached if _age(entry, self.now) >= policy.grace_s]
        young = [entry for entry in unreached if _age(entry, self.now) < policy.grace_s]
        damaged = self.contents.damaged
        return Survey(
            garbage=tuple(Garbage(e, what_is(e.key), _age(e, self.now)) for e in old),
            young=tuple(young),
            objects=len(entries),
            bytes=sum(entry.size for entry in entries.values()),
            unreadable=tuple(str(damaged[key]) for key in damaged if key in self.reached),
        )


def survey(store: Store, policy: Policy) -> Survey:
    """Return what of a store nothing needs, and which of it an earlier pass has marked.

    Raises:
        StoreError: the store cannot be read.
    """
    found = _Found.of(store, policy)
    surveyed = found.survey(policy, store.temporaries())
    ripe = set[str]()
    for area in {area_of(each.entry.key) for each in surveyed.garbage}:
        marks, _ = read_marks(store, area)
        ripe |= {key for key, mark in marks.marked.items() if _is_ripe(mark, found.now, policy)}
        ripe |= set(marks.sweeping)
    marked = tuple(replace(each, ripe=each.entry.key in ripe) for each in surveyed.garbage)
    return replace(surveyed, garbage=marked)


def collect(store: Store, policy: Policy, progress: Callable[[int, int], object]) -> Collected:
    """Remove what an earlier pass marked and nothing needs, and mark what nothing needs now.

    Args:
        store: what to collect in.
        policy: what goes, and when.
        progress: called with how many objects are removed, and of how many.

    Raises:
        InputError: a document that is needed cannot be read, so that nobody knows what it refers
            to; or another collector is at work.
        StoreError: the store fails; another pass goes on from there.
    """

    def alive(holder: str) -> NoReturn:
        raise InputError(f"another graft gc is at work on {store.uri}: {holder}; let it end")

    with hold_lease(store, "gc/lease.json", replace(DEFAULT_TERMS, alive=alive)):
        removed: tuple[Garbage, ...] = ()
        while True:
            surveyed = survey(store, policy)
            if surveyed.unreadable:
                raise InputError(
                    f"{len(surveyed.unreadable)} documents cannot be read, and may refer to "
                    f"anything, such as: {surveyed.unreadable[0]}. Nothing is removed; graft fsck "
                    "names all of them, and what to do"
                )
            collected = _collect(store, policy, surveyed, progress)
            removed += collected.removed
            if len(collected.removed) < CLAIMED:
                return replace(collected, removed=removed)


def _collect(
    store: Store, policy: Policy, surveyed: Survey, progress: Callable[[int, int], object]
) -> Collected:
    now = store.clock()
    by_area: defaultdict[str, dict[str, Garbage]] = defaultdict(dict)
    for each in surveyed.garbage:
        by_area[area_of(each.entry.key)][each.entry.key] = each
    claimed: dict[str, Garbage] = {}
    marked = 0
    for area in sorted({*by_area, *AREAS}):
        of_area = by_area.get(area, {})
        marks = _claim(store, area, of_area, now, policy, CLAIMED - len(claimed))
        marked += len(marks.marked)
        claimed |= {key: of_area[key] for key in marks.sweeping if key in of_area}
    removed: tuple[Garbage, ...] = ()
    if claimed:
        with _holding_drafts(store, claimed) as drafts:
            removed = _remove(store, policy, claimed, drafts, progress)
    for area in sorted({*by_area, *AREAS}):
        _release(store, area)
    return Collected(removed, marked)


def _claim(
    store: Store, area: str, garbage: dict[str, Garbage], now: float, policy: Policy, most: int
) -> Marks:
    """Mark what nothing needs, and claim what was marked a grace period ago; at most so many."""
    for _ in swaps(f"{store.uri}: the marks of {area}"):
        before, etag = read_marks(store, area)
        marked = {}
        for key, each in garbage.items():
            mark = before.marked.get(key)
            if mark is None or mark.modified != each.entry.modified:
                mark = Mark(since=now, modified=each.entry.modified)
            marked[key] = mark
        # What a collector that died had claimed, nobody has relied on since.
        ripe = [key for key, mark in marked.items() if _is_ripe(mark, now, policy)]
        sweeping = list(dict.fromkeys([*before.sweeping, *ripe]))[:most]
        rest = {key: mark for key, mark in marked.items() if key not in set(sweeping)}
        marks = Marks(marked=rest, sweeping=tuple(sweeping))
        if marks == before or move_marks(store, area, marks, etag):
            return marks
    raise AssertionError("swaps ends by raising")


def _release(store: Store, area: str) -> None:
    """Let writers have again what a pass had claimed."""
    for _ in swaps(f"{store.uri}: the marks of {area}"):
        before, etag = read_marks(store, area)
        after = before.model_copy(update={"sweeping": ()})
        if after == before or move_marks(store, area, after, etag):
            return


@contextlib.contextmanager
def _holding_drafts(store: Store, claimed: Iterable[str]) -> Iterator[set[str]]:
    """Yield the folders of drafts among what goes, of which nobody can make an attempt meanwhile.

    One that somebody is at work on again is not among them: it was written to, and stays.
    """
    drafts = {match[0] for key in claimed if (match := _DRAFT.match(key))}
    with contextlib.ExitStack() as held:
        yield {
            folder
            for folder in sorted(drafts)
            if store.exists(f"{folder}spec.yaml") and _hold(store, folder, held)
        }


def _hold(store: Store, folder: str, held: contextlib.ExitStack) -> bool:
    try:
        held.enter_context(hold_attempt(store, folder.rstrip("/"), lambda text: None))
    except InputError:
        return False
    return True


def _remove(
    store: Store,
    policy: Policy,
    claimed: dict[str, Garbage],
    drafts: Collection[str],
    progress: Callable[[int, int], object],
) -> tuple[Garbage, ...]:
    """Remove what is claimed and still unreachable, and as it was; return it."""
    found = _Found.of(store, policy, drafts)
    entries = found.contents.entries
    # Documents that nothing needs either, and that do not go now.
    others = (key for key in entries if key not in found.reached and key not in claimed)
    kept = with_all_referred(found.contents, found.reached, filter(kind_of, others))
    now = entries | {entry.key: entry for entry in store.temporaries()}
    going = [
        each for key, each in claimed.items() if key not in kept and now.get(key) == each.entry
    ]
    done = 0
    for part in (False, True):  # documents, then payloads
        batch = [each.entry.key for each in going if is_payload(each.entry.key) == part]
        with workers(AT_ONCE) as pool:
            for _ in pool.map(store.delete, batch):
                done += 1
                progress(done, len(going))
    return tuple(going)


def totals(garbage: Sequence[Garbage]) -> dict[str, tuple[int, int]]:
    """Return objects and bytes by what they are."""
    objects = Counter(each.what for each in garbage)
    sizes = Counter[str]()
    for each in garbage:
        sizes[each.what] += each.entry.size
    return {what: (objects[what], sizes[what]) for what in sorted(objects)}


def what_is(key: str) -> str:
    """Return what an unreachable object is, for people."""
    name = key.rpartition("/")[2]
    if name.startswith(".tmp-"):
        return "temporary files"
    if key.startswith("probe-"):
        return "left by store check"
    if key.startswith("activations/claims/"):
        return "leases"
    if re.match(r"runs/.*/(checkpoints|steps)/|sweeps/.*/under-way/", key):
        return "checkpoints"
    if key.startswith("sweeps/") and "/tails/" in key:
        return "tails of trials"
    return OTHER.get(area_of(key), "other")


def _age(entry: Entry, now: float) -> float:
    return max(now - entry.modified, 0.0)


def _is_ripe(mark: Mark, now: float, policy: Policy) -> bool:
    return now - mark.since >= policy.grace_s


def _is_lock_in_use(key: str, entries: Collection[str]) -> bool:
    """Whether a temporary file is the lock of a pointer that there is."""
    folder, _, name = key.rpartition("/")
    return name.endswith(LOCK) and f"{folder}/{name[5 : -len(LOCK)]}" in entries
