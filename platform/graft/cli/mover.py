"""Who moves aliases, where a command does."""

from graft.registry import Mover


def mover_of(command: str) -> Mover:
    """Return this machine's user with the command, such as `graft train`.

    Before a champion moves, the store's transfer reports are asked about it.
    """
    from graft.report.transfer.record_verdicts import record_from_reports

    return Mover.here(command, record_from_reports)
