"""Training images/s of Graft against the plain PyTorch tutorial loop.

Same model (SqueezeNet 1.1, trained whole), same images, same cores, same batch size,
interleaved rounds, the median of each. Graft trains by way of Ray Train, from its store;
the baseline is the loop of PyTorch's transfer-learning tutorial: ImageFolder, DataLoader
with a worker per core, NCHW tensors. Times are of whole epochs, without start-up,
validation and checkpoints.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from photographs import photographs
from torchvision import transforms

from graft.cluster.local_ray import ray_session
from graft.data.importing import import_dataset
from graft.spec import parse_job
from graft.store import Store
from graft.training.prepare_run import resolve
from graft.training.run_records import create_run
from report import report

ANTS_BEES = Path(__file__).parents[3] / "shared" / "data" / "ants-bees"
CORES = os.cpu_count() or 1
BATCH = 32
EPOCHS = 4
ROUNDS = 3


def tutorial_rate(source: Path) -> float:
    """Train as the tutorial does; return images/s."""
    torch.manual_seed(0)
    torch.set_num_threads(CORES)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torchvision.datasets.ImageFolder(source / "train", transform)
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=CORES)
    model = torchvision.models.squeezenet1_1(num_classes=len(images.classes)).train()
    loss_of = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    start = time.monotonic()
    for _ in range(EPOCHS):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss_of(model(inputs), labels).backward()
            optimizer.step()
    return EPOCHS * len(images) / (time.monotonic() - start)


def graft_rate(store: Store) -> float:
    """Train by way of Ray Train; return images/s."""
    from graft.training.ray_train import run_finetune

    spec = parse_job(
        {
            "kind": "finetune",
            "name": "bench",
            "dataset": {"name": "bench"},
            "backbone": {"arch": "squeezenet1_1", "weights": "none", "freeze": 0},
            "train": {"epochs": EPOCHS, "batch_size": BATCH},
            "scaling": {"workers": 1, "cpus_per_worker": CORES},
        },
        "bench",
    )
    return run_finetune(
        store, create_run(store, resolve(store, spec)), lambda _: None
    ).images_per_second


def main() -> None:
    """Measure, print, append to bench.jsonl."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        source = ANTS_BEES if ANTS_BEES.is_dir() else photographs(Path(scratch) / "images")
        store = Store.open(f"{scratch}/store")
        import_dataset(store, str(source), "bench", test_fraction=0)
        ours, baseline = [], []
        with ray_session():
            for _ in range(ROUNDS):
                baseline.append(tutorial_rate(source))
                ours.append(graft_rate(store))
                print(f"tutorial {baseline[-1]:.1f}, graft {ours[-1]:.1f} images/s", flush=True)
        report(
            "training squeezenet1_1 whole, against the PyTorch tutorial",
            statistics.median(ours),
            statistics.median(baseline),
            "images/s",
        )


if __name__ == "__main__":
    main()
