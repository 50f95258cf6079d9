"""One worker of an attempt, in a process of its own: colours.train_together."""

import gc
import os
import sys
import time
from datetime import timedelta

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from graft.backbones.process_setup import set_up_process
from graft.errors import Interrupted
from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import Event, Saved, Validated
from graft.training.worker_group import Ranks

BUCKETS = 11
"""Exit code of a worker that holds buckets of gradients where nobody needs them."""


def main(
    meet: str,
    rank: int,
    workers: int,
    store: str,
    run: str,
    die_after: int,
    die_inside: int,
    send: int,
) -> None:
    """Meet the others at a file, and train.

    `die_after`: the epoch after which to die; `die_inside`: the one in which to send itself a
    signal, once a checkpoint inside it is committed; 0: none.
    """
    if die_after or die_inside:  # what its end makes of the others is no news
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meet}",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=60),
    )

    def post(event: Event) -> None:
        if isinstance(event, Validated) and _buckets():
            os._exit(BUCKETS)  # between two epochs, nothing exchanges gradients
        if isinstance(event, Validated) and event.epoch == die_after:
            os._exit(9)
        if isinstance(event, Saved) and event.epoch == die_inside:
            os.kill(os.getpid(), send)

    ranks = Ranks.current(set_up_process(cpus=1))
    try:
        run_attempt(Store.open(store), run, ranks, post, time.time())
    except Interrupted:
        sys.exit(Interrupted.exit_code)
    distributed.destroy_process_group()


def _buckets() -> bool:
    return any(type(thing) is DistributedDataParallel for thing in gc.get_objects())
