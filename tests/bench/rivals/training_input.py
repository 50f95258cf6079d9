"""Training input by the field's libraries: an epoch of batches, and how long each took.

    training_input.py '{"kind": "imagefolder", "images": FOLDER, "workers": 3, ...}'

The last line is JSON: images and seconds by epoch. Packed forms are made by `make`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import functional

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK_BYTES = 8 << 20
"""Small, so that workers have equal shares of so few images."""


def transform(floats: str) -> Callable[[Image.Image], torch.Tensor]:
    """Return the usual augmentation; `floats`: whether a worker or the trainer makes numbers."""
    steps: list[Any] = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    if floats == "worker":
        return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return transforms.Compose([*steps, transforms.PILToTensor()])


def ready(images: torch.Tensor, floats: str) -> torch.Tensor:
    """Return a batch as a network takes it."""
    return images if floats == "worker" else functional.normalize(images / 255, MEAN, STD)


def make(kind: str, images: str, out: str) -> None:
    """Pack a folder of images, class by class."""
    found = datasets.ImageFolder(images).samples
    if kind == "webdataset":
        import webdataset

        pattern = str(Path(out, "%05d.tar"))
        with webdataset.ShardWriter(pattern, maxsize=CHUNK_BYTES, verbose=0) as writer:
            for number, (path, label) in enumerate(found):
                sample = {"__key__": f"{number:08}", "jpg": Path(path).read_bytes(), "cls": label}
                writer.write(sample)
    else:
        import litdata

        litdata.optimize(packed, found, out, chunk_bytes=CHUNK_BYTES, num_workers=1, verbose=False)


def packed(sample: tuple[str, int]) -> dict[str, Any]:
    """Return what LitData stores: the file's bytes."""
    return {"image": Path(sample[0]).read_bytes(), "label": sample[1]}


def batches(options: dict[str, Any]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Return a loader: each time that it is gone through is an epoch."""
    augment, workers = transform(options["floats"]), options["workers"]
    common: dict[str, Any] = {"num_workers": workers, "persistent_workers": True}
    common["prefetch_factor"] = 4
    if options["kind"] == "imagefolder":
        folder = datasets.ImageFolder(options["images"], augment)
        return DataLoader(folder, BATCH, shuffle=True, **common)
    if options["kind"] == "webdataset":
        import webdataset

        # Workers have shards of their own: as many as there are, or some have none.
        shards = webdataset.WebDataset(options["urls"], shardshuffle=100, empty_check=False)
        samples = shards.shuffle(1000).decode("pil").to_tuple("jpg", "cls")
        samples = samples.map_tuple(augment, int).batched(BATCH)
        return webdataset.WebLoader(samples, batch_size=None, **common)
    import litdata
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the bench's MinIO has no TLS

    class Images(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            import io

            item = super().__getitem__(index)
            return augment(Image.open(io.BytesIO(item["image"])).convert("RGB")), item["label"]

    dataset = Images(
        options["source"],
        cache_dir=options.get("cache"),
        shuffle=True,
        storage_options=options.get("storage", {}),
    )
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH, **common)


def main(options: dict[str, Any]) -> None:
    if "make" in options:
        make(options["make"], options["images"], options["out"])
        return
    loader, epochs = batches(options), []
    for _ in range(options["epochs"]):
        began, images = time.perf_counter(), 0
        for x, _labels in loader:
            images += len(ready(x, options["floats"]))
        epochs.append((images, time.perf_counter() - began))
    print(json.dumps(epochs), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
