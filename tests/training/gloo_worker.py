"""One worker of an attempt, in a process of its own: colours.train_together."""

import os
import time
from datetime import timedelta

import torch
from torch import distributed

from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import Event, Validated
from graft.training.worker_group import Ranks


def main(meet: str, rank: int, workers: int, store: str, run: str, die_after: int) -> None:
    """Meet the others at a file, train, and die after an epoch, if it is not 0."""
    if die_after:  # what its end makes of the others is no news
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meet}",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=60),
    )

    def post(event: Event) -> None:
        if isinstance(event, Validated) and event.epoch == die_after:
            os._exit(9)

    ranks = Ranks.current(torch.device("cpu"))
    run_attempt(Store.open(store), run, ranks, post, time.time())
    distributed.destroy_process_group()
