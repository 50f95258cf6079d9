"""Who moves aliases, where a command does."""

import os

from graft.registry import Mover


def mover_of(command: str) -> Mover:
    """Return this machine's user, or a submitted job's owner, with the command: `graft train`.

    Before a champion moves, the store's transfer reports are asked about it.
    """
    from graft.report.transfer.record_verdicts import record_from_reports

    if owner := os.environ.get("GRAFT_OWNER"):  # whom the cluster knows: cluster/rayjob_manifest.py
        return Mover(owner, command, self_declared=False, consult=record_from_reports)
    return Mover.here(command, record_from_reports)
