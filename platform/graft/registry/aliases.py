"""Aliases: names that point at versions; only they move, each time recorded with who and why."""

import getpass
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

from pydantic import Field

from graft.errors import (
    InputError,
    NotFoundError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
)
from graft.registry.verdicts import Basis, Evidence
from graft.registry.versions import (
    Fence,
    ModelVersion,
    model_names,
    read_version,
    version_numbers,
)
from graft.spec import NAME, Section, nearest
from graft.store import (
    Store,
    Tell,
    document_bytes,
    parse_document,
    read_document,
    unless_damaged,
)
from graft.store.retries import swaps

CHAMPION = "champion"
"""A model's bare name means the version that this alias points at, once it is set."""
_ALIAS = re.compile(r"models/[^/]+/aliases/([^/]+)\.json")


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

    FORMAT: ClassVar[int] = 2
    """1: a move did not say who made it, and on what evidence."""

    version: int
    history: tuple[Move, ...]
    """Oldest first; the last one's `to` is `version`."""

    def has_moved_since(self, version: ModelVersion) -> bool:
        """Whether it was moved to a version or a newer one, or since that version was made."""
        return any(
            move.to >= version.version or move.when > version.created for move in self.history
        )


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
        """Return the user of this machine's account; no server vouches for that name."""
        return cls(user_and_host(), command, consult=consult)


def user_and_host() -> str:
    """Return the user of this machine's account, and the machine's name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def get_model(store: Store, ref: str) -> ModelVersion:
    """Return the version that `ref` means.

    ``NAME`` is the champion if that alias is set, else the newest version;
    ``NAME@3`` a version; ``NAME@candidate`` what an alias points at.

    Raises:
        NotFoundError: no such model, version or alias; the nearest ones are named.
    """
    name, _, selector = ref.partition("@")
    numbers = version_numbers(store, name) if re.fullmatch(NAME, name) else []
    if not numbers:
        models = model_names(store)
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
    return read_version(store, name, number)


def aliases(store: Store, name: str, tell: Tell | None = None) -> dict[str, int]:
    """Return a model's aliases and the versions they point at.

    `tell` is told of damaged ones, which are left out then.
    """
    versions = {}
    for key, _ in store.scan(f"models/{name}/aliases/"):
        match = _ALIAS.fullmatch(key)
        read = partial(read_document, store, key, Alias)
        if match and (pointer := unless_damaged(read, tell)):
            versions[match[1]] = pointer.version
    return versions


def promote(
    store: Store, ref: str, alias: str, mover: Mover | None = None, force: bool = False
) -> list[str]:
    """Point `alias` at the version that `ref` means, as a person asks, and record the move.

    `mover` is by default this machine's user. Returns what nothing shows of a new champion, a line
    each.

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
    store: Store,
    version: ModelVersion,
    alias: str,
    mover: Mover,
    fence: Fence,
    resumed: bool = False,
) -> list[str]:
    """Point `alias` at a version, as the spec that it comes from asks; see `promote`.

    The alias stays where it is if it points at a newer version already. Where it is `resumed`, an
    earlier attempt registered the version and may have moved the alias: then it stays, too, if it
    has been moved since, by whomever.

    Raises:
        InputError: as `promote`.
        RunFailed: `fence` raises it, just before the alias would move.
    """
    return _move(store, version, alias, mover, fence=fence, resumed=resumed)


def _move(
    store: Store,
    version: ModelVersion,
    alias: str,
    mover: Mover,
    force: bool = False,
    fence: Fence | None = None,
    resumed: bool = False,
) -> list[str]:
    """Move an alias in one compare-and-swap.

    The alias is read before all that decides whether it may move, so that the swap fails where
    another writer has moved it meanwhile. With a `fence` it moves as `promote_new` says.
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
        before = parse_document(store, key, current.data, Alias) if current else None
        if before and before.version == version.version:
            return []
        if before and (stays := _stays(before, version, alias, fence is not None, resumed)):
            return [stays]
        evidence = Evidence.of(store, version, before.version if before and champion else None)
        unshown = evidence.check(force) if champion else []
        after = _moved(before, version, mover, evidence, forced=force and champion)
        if fence:
            fence()
        try:
            if current:
                store.replace(key, document_bytes(after), current.etag)
            else:
                store.create(key, document_bytes(after))
        except (ObjectExists, ObjectChanged):
            continue
        except StoreDenied as error:
            raise StoreDenied(
                f"these credentials may not move {alias} of {version.name}; whoever may promote "
                f"does it with graft models promote {version.ref} --alias {alias}"
            ) from error
        return unshown


def _stays(
    before: Alias, version: ModelVersion, alias: str, fenced: bool, resumed: bool
) -> str | None:
    """Return why an attempt does not move an alias from where it points; None where it does."""
    stays = f"{alias} stays at {version.name}@{before.version}"
    if fenced and before.version > version.version:
        return f"{stays}, which is newer"
    if resumed and before.has_moved_since(version):
        return (
            f"{stays}: it has been moved since {version.ref} was registered; to move it: "
            f"graft models promote {version.ref} --alias {alias}"
        )
    return None


def _moved(
    before: Alias | None, version: ModelVersion, mover: Mover, evidence: Evidence, forced: bool
) -> Alias:
    """Return an alias that points at a version, with this move in its history."""
    move = Move(
        **{"from": before and before.version},
        to=version.version,
        when=datetime.now(UTC).isoformat(),
        who=mover.who,
        self_declared=mover.self_declared,
        command=mover.command,
        basis=evidence.basis(forced),
        evidence=evidence.lines,
    )
    return Alias(version=version.version, history=(*(before.history if before else ()), move))


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
