"""The tails that a sweep's trials have stored, and which of them stay.

sweeps/<sweep>/tails/<number>-<SHA-256>.safetensors   of an epoch of that trial

Of trials that are listed all stay, since whoever lists them tries each: a transfer report does, and
removes them once it is finished. Of any other sweep the best trial's tail stays. A record never
changes, and more records only make a better best trial: one that is not the best of those that have
ended never will be, so that no attempt at a sweep removes what another one needs.
"""

import contextlib
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from graft.errors import StoreError
from graft.spec import ListSearch, Sweep
from graft.store import Store

REMOVED_AT_ONCE = 16


def keeps_all(sweep: Sweep) -> bool:
    """Whether the tails of all trials stay."""
    return isinstance(sweep.search, ListSearch)


def trials_share(sweep: Sweep) -> bool:
    """Whether a trial may go on from another one's tail, which then is needed until the end."""
    return sweep.scheduler.kind == "pbt"


def remove_tails(
    store: Store, sweep_id: str, kept: Container[str | None] = (), trial: int | None = None
) -> None:
    """Remove the tails of a sweep, or of one of its trials, but for the keys in `kept`.

    One that cannot be removed takes space, and nothing else.
    """
    prefix = f"sweeps/{sweep_id}/tails/" + ("" if trial is None else f"{trial}-")
    with contextlib.suppress(StoreError), ThreadPoolExecutor(REMOVED_AT_ONCE) as pool:
        spare = [key for key, _ in store.scan(prefix) if key not in kept]
        list(pool.map(store.delete, spare))
