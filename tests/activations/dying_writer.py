"""Computes activations in jobs of eight images, and hangs, alive, after as many as it is told.

Usage: dying_writer.py STORE IMAGES
"""

import sys
import time

import torch

from activations_lab import BATCH, make_lab
from graft.activations.fill import Wanted
from graft.data.manifest import open_dataset
from graft.store import Store


def main() -> None:
    torch.set_num_threads(1)
    store, left = Store.open(sys.argv[1]), int(sys.argv[2])

    def hang(images: int) -> None:
        nonlocal left
        left -= images
        if left <= 0:
            print("hangs", flush=True)
            time.sleep(600)

    lab = make_lab(store, open_dataset(store, "colours"))
    lab.fill(Wanted("train", 1, 3), job_images=BATCH, lease_s=1.5, progress=hang)


main()
