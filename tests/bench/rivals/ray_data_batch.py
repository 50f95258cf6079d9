"""Ray Data's own batch inference, as its documentation has it: read_images, map, map_batches.

    python ray_data_batch.py FOLDER ARCH ACTORS BATCH OUT

Eager torchvision, one thread in each process. Prints the seconds from the first line to the last
file, Ray's start left out.
"""

import json
import logging
import sys
import time
from typing import Any

import numpy as np
import ray.data
import torch
import torchvision
from torchvision.transforms import v2

from graft.cluster.local_ray import ray_session

FOLDER, ARCH, ACTORS, BATCH, OUT = sys.argv[1:]
TRANSFORM = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def preprocess(row: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {"path": row["path"], "image": TRANSFORM(row["image"]).numpy()}


class Model:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = torchvision.models.get_model(ARCH, weights=None, num_classes=10).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shares = self.model(torch.from_numpy(batch["image"])).softmax(1).numpy()
        return {
            "path": batch["path"],
            "class": shares.argmax(1),
            "probability": shares.max(1).astype(np.float32),
        }


def main() -> None:
    with ray_session():
        answer()


def answer() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    began = time.perf_counter()
    images = ray.data.read_images(FOLDER, mode="RGB", include_paths=True)
    answers = images.map(preprocess).map_batches(
        Model,
        batch_size=int(BATCH),
        num_cpus=1 / int(ACTORS),
        compute=ray.data.ActorPoolStrategy(size=int(ACTORS)),
    )
    answers.write_parquet(OUT)
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
