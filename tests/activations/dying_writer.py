"""A process that computes activations, eight images a task, and hangs, alive, in one of them."""

import os
import time
from multiprocessing.connection import Connection

import torch

from activations_lab import BATCH, make_lab
from graft.activations.key import CacheEntry
from graft.activations.lease import LeaseTerms
from graft.data.manifest import open_dataset
from graft.store import Store


def main(uri: str, images: int, expiry_s: float, told: Connection) -> None:
    """Hang once `images` are computed, and tell the process's id."""
    torch.set_num_threads(1)
    store = Store.open(uri)

    def hang(done: int, total: int) -> None:
        if done >= images:
            told.send(os.getpid())
            time.sleep(600)

    lab = make_lab(store, open_dataset(store, "colours"))
    terms = LeaseTerms(expiry_s)
    lab.fill(CacheEntry("train", 1, 3), task_images=BATCH, terms=terms, progress=hang)
