"""Who moves aliases, where a command does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.cluster.job_records import Owner
    from graft.registry import Mover


def mover_of(command: str, owner: "Owner | None" = None) -> "Mover":
    """Return who moves aliases by a command as typed, such as `graft train`.

    That is the owner of a submitted job, else this machine's user. Before a champion moves, the
    store's transfer reports are asked about it.
    """
    from graft.registry import Mover
    from graft.report.transfer.record_verdicts import record_from_reports

    if owner is None:
        return Mover.here(command, record_from_reports)
    return Mover(owner.who, command, owner.self_declared, record_from_reports)
