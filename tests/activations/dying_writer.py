"""A process that computes activations in jobs of eight images, and hangs, alive, in one of them."""

import os
import time
from multiprocessing.connection import Connection

import torch

from activations_lab import BATCH, make_lab
from graft.activations.fill import Wanted
from graft.data.manifest import open_dataset
from graft.store import Store


def main(uri: str, images: int, lease_s: float, told: Connection) -> None:
    """Hang once so many images are computed, and tell the process's id."""
    torch.set_num_threads(1)
    store, left = Store.open(uri), images

    def hang(computed: int) -> None:
        nonlocal left
        left -= computed
        if left <= 0:
            told.send(os.getpid())
            time.sleep(600)

    lab = make_lab(store, open_dataset(store, "colours"))
    lab.fill(Wanted("train", 1, 3), job_images=BATCH, lease_s=lease_s, progress=hang)
