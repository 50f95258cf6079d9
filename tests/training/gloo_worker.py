"""One worker of an attempt as a process of its own: MEET RANK WORKERS STORE RUN DIE_AFTER."""

import os
import sys
import time
from datetime import timedelta

import torch
from torch import distributed

from graft.store import Store
from graft.training.attempt import run_attempt
from graft.training.events import Event, Validated
from graft.training.ranks import Ranks


def main() -> None:
    meet, rank, workers, store, run, die_after = sys.argv[1:]
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meet}",
        rank=int(rank),
        world_size=int(workers),
        timeout=timedelta(seconds=60),
    )

    def post(event: Event) -> None:
        if isinstance(event, Validated) and event.epoch == int(die_after):
            os._exit(9)

    ranks = Ranks.current(torch.device("cpu"))
    run_attempt(Store.open(store), run, ranks, post, time.time())
    distributed.destroy_process_group()


main()
