"""`graft ship-logs`: what runs beside Ray in each pod of a submitted job."""

import os
from pathlib import Path
from typing import Annotated

import typer

from graft.cli.options import DEFAULT_STORE, StoreUri, open_store


def ship_logs(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    folder: Annotated[Path, typer.Argument(help="Ray's log folder.")],
    store: StoreUri = DEFAULT_STORE,
) -> None:
    """Ship a pod's logs to the store as they come, until SIGTERM; print the driver's.

    So `kubectl logs`, and whatever else collects what pods print, has the driver's log, too.
    """
    import signal
    import sys
    import threading

    from graft.cli.show.output import note
    from graft.cluster.log_shipping import Shipper, ship_until

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def echo(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    shipper = Shipper(open_store(store), job, folder, os.uname().nodename, echo)
    ship_until(shipper, ended, note)
