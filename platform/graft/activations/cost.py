"""Whether it pays to keep activations: bytes and seconds, and a line that says why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graft.errors import ResourceError, SpecError

Mode = Literal["auto", "on", "off"]

WORTH = 0.1
"""Part of the time that must be saved under `auto`: an estimate is no better than that."""


@dataclass(frozen=True)
class Reads:
    """How often the images of one split are read in one view."""

    split: str
    view: int
    images: int
    times: int
    """Over all epochs of all trials."""
    kept: int = 0
    """Images whose activations are in the store already."""


@dataclass(frozen=True)
class Costs:
    """What one image costs at a depth, and one byte."""

    row_bytes: int
    """Activations of one image, as stored."""
    trunk_s: float
    """Seconds of the trunk's forward pass for one image, with all that computes at once."""
    decode_s: float
    """Seconds to decode and render one image."""
    read_bytes_s: float = 1e9
    """Bytes a second from the node's disk or its page cache; of the store, where that is slower."""
    write_bytes_s: float = 2e8
    """Bytes a second into the store."""


@dataclass(frozen=True)
class Budgets:
    """Space for activations that are not there yet; None is without limit."""

    store_bytes: int | None = None
    node_bytes: int | None = None
    """For all of them, where a node keeps copies of its own."""

    def less(self, decision: "Decision") -> "Budgets":
        """Return what is left beside what was decided to be kept."""
        store, node = self.store_bytes, self.node_bytes
        return Budgets(
            None if store is None else store - decision.new_bytes,
            None if node is None else node - decision.nbytes,
        )


@dataclass(frozen=True)
class Decision:
    """Whether to keep activations, and what that means."""

    cache: bool
    reason: str
    """One line, which begins with what was decided."""
    keep: tuple[Reads, ...]
    """Those whose activations are to be kept; under `auto` without views that are seen once."""
    nbytes: int
    """Of all that is kept."""
    new_bytes: int
    """Of those that are not in the store yet."""
    uncached_s: float
    """Forecast of decoding and trunk for all reads, keeping nothing."""
    cached_s: float
    """Forecast for all reads, with what is kept computed once, written and read."""


def decide(
    mode: Mode,
    depth: int,
    reads: Sequence[Reads],
    costs: Costs,
    budgets: Budgets | None = None,
) -> Decision:
    """Decide under `cache: auto`, or do as `on` or `off` says; what is trained never changes.

    Args:
        mode: what the spec says.
        depth: frozen stages.
        reads: all that will be read.
        costs: of one image at this depth.
        budgets: space that may be used.

    Raises:
        SpecError: `on`, where there is nothing to keep.
        ResourceError: `on`, and there is not enough space.
    """
    budgets = budgets or Budgets()
    uncached_s = sum(_without(read, costs) for read in reads)
    pays = [read for read in reads if _with(read, costs) < _without(read, costs)]
    keep = tuple(reads if mode == "on" else pays)
    nbytes = costs.row_bytes * sum(read.images for read in keep)
    new_bytes = costs.row_bytes * sum(read.images - read.kept for read in keep)
    cached_s = sum(_with(read, costs) if read in keep else _without(read, costs) for read in reads)

    def no(reason: str) -> Decision:
        return Decision(False, f"not cached: {reason}", (), 0, 0, uncached_s, uncached_s)

    def yes(reason: str) -> Decision:
        return Decision(True, f"cache: {reason}", keep, nbytes, new_bytes, uncached_s, cached_s)

    if mode == "off":
        return no("cache is off")
    if depth == 0:
        if mode == "on":
            raise SpecError("cache: on has no effect: nothing is frozen; use auto")
        return no("nothing is frozen")
    if short := _short(nbytes, new_bytes, budgets):
        if mode == "on":
            raise ResourceError(f"cache: on: {short}; free some, freeze deeper, or use auto")
        return no(short)
    saved = uncached_s - cached_s
    if mode == "auto" and (not keep or saved < WORTH * uncached_s):
        if all(read.times <= 1 for read in reads):
            return no("every view is seen once (augment.views: live, or no fewer than epochs)")
        return no(
            f"{_size(costs.row_bytes * sum(read.images for read in reads))} of activations are "
            f"read {_times(reads)}; computing, writing and reading them takes about "
            f"{_seconds(sum(_with(read, costs) for read in reads))}, decoding and trunk "
            f"without it {_seconds(uncached_s)}"
        )
    what = f"{_size(nbytes)} of activations"
    if left_out := [read for read in reads if read not in keep]:
        splits = sorted({read.split for read in keep})
        what += f" ({', '.join(splits)})"
    what += f" are read {_times(keep)}"
    if saved < WORTH * uncached_s:
        return yes(f"it is on, though {what} and keeping them saves next to nothing")
    if not new_bytes:
        how = "all of them are in the store, which saves"
    else:
        how = "computing them once saves"
    reason = f"{what}; {how} about {_seconds(saved)} of {_seconds(uncached_s)}"
    if left_out:
        reason += f"; {', '.join(sorted({r.split for r in left_out}))} is read too seldom"
    return yes(reason)


def _without(read: Reads, costs: Costs) -> float:
    """Return the seconds of decoding and trunk, each time anew."""
    return read.images * read.times * (costs.decode_s + costs.trunk_s)


def _with(read: Reads, costs: Costs) -> float:
    """Return the seconds of computing and writing once, where still to do, and of reading."""
    once = costs.decode_s + costs.trunk_s + costs.row_bytes / costs.write_bytes_s
    each = costs.row_bytes / costs.read_bytes_s
    return (read.images - read.kept) * once + read.images * read.times * each


def _short(nbytes: int, new_bytes: int, budgets: Budgets) -> str | None:
    for what, need, budget in (
        ("the store", new_bytes, budgets.store_bytes),
        ("the node-local cache", nbytes, budgets.node_bytes),
    ):
        if budget is not None and need > budget:
            return f"activations take {_size(need)}, {what} has room for {_size(budget)}"
    return None


def _size(nbytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            number = nbytes / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{nbytes / 1e3:.0f} kB"


def _times(reads: Sequence[Reads]) -> str:
    times = sum(read.images * read.times for read in reads) / sum(read.images for read in reads)
    if times < 1.05:
        return "once"
    return f"{times:.0f} times" if times >= 10 else f"{times:.3g} times"


def _seconds(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
