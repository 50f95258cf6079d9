"""Time of a training step at three freeze depths, against plain PyTorch.

The baseline freezes the same stages as everybody does, `requires_grad = False`, and takes
the step of PyTorch's tutorial on images that were made float tensors beforehand; Graft's
step begins with the loader's bytes. One worker, the same batch, steps by turns; the median
of each.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from photographs import photographs
from torch import nn

from graft.backbones.process_setup import set_up_process
from graft.data.epoch_order import FULL, EpochOrder
from graft.data.importing import import_dataset
from graft.data.loader import to_tensor
from graft.spec import parse_job
from graft.store import Store
from graft.training.attempt import training_data
from graft.training.loop import Learner, train_step
from graft.training.metrics import TrainTally
from graft.training.prepare_run import assemble, resolve
from graft.training.worker_group import Ranks
from report import report

CORES = os.cpu_count() or 1
BATCH = 32
WARM_UP = 2
REPEATS = 15


def steps(store: Store, arch: str, freeze: int | str) -> tuple[Callable[[], None], ...]:
    """Return Graft's training step, and the baseline's."""
    cpu = torch.device("cpu")
    spec = resolve(
        store,
        parse_job(
            {
                "kind": "finetune",
                "name": "bench",
                "dataset": {"name": "bench"},
                "backbone": {"arch": arch, "weights": "none", "freeze": freeze},
                "train": {"batch_size": BATCH},
            },
            "bench",
        ),
    )
    assembly, plain = assemble(store, spec), assemble(store, spec)
    data = training_data(assembly, spec)
    learner = Learner.of(
        assembly.model, assembly.plan, data, spec.train, Ranks.alone(cpu), slots={}
    )
    shares = EpochOrder(data.train, FULL, seed=0).slices(epoch=0, batch_size=BATCH)
    batch = next(iter(data.loader.batches(data.train, shares, view=0)))
    tally = TrainTally.empty(cpu)

    network = plain.model.network.to(memory_format=torch.contiguous_format).train()
    for parameter in plain.model.trunk.parameters():
        parameter.requires_grad = False
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    inputs = to_tensor(batch.images, data.preprocess, cpu).contiguous()
    labels = torch.from_numpy(batch.labels)

    def graft_step() -> None:
        learner.model.train()
        train_step(learner, batch, 1.0, tally)

    def plain_step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(network(inputs), labels))
        optimizer.step()

    return graft_step, plain_step


def main() -> None:
    """Measure, print, append to bench.jsonl."""
    set_up_process(CORES)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        store = Store.open(f"{scratch}/store")
        import_dataset(
            store, str(photographs(Path(scratch) / "images", train=BATCH)), "bench", test_fraction=0
        )
        for arch, half in (("resnet18", 2), ("squeezenet1_1", 4)):
            for freeze in ("all", half, 0):
                both = steps(store, arch, freeze)
                seconds: tuple[list[float], ...] = ([], [])
                for repeat in range(WARM_UP + REPEATS):
                    for step, times in zip(both, seconds, strict=True):
                        start = time.monotonic()
                        step()
                        if repeat >= WARM_UP:
                            times.append(time.monotonic() - start)
                ours, baseline = (statistics.median(times) * 1000 for times in seconds)
                name = f"step of {arch}, freeze {freeze}, against requires_grad=False"
                report(name, ours, baseline, "ms", higher_is_better=False)


if __name__ == "__main__":
    main()
