"""The row that needs nothing but torch: how fast bytes reach the GPU."""

import torch
from torch import Tensor

from gpu.compare import rate, wait
from gpu.sizes import Sizes
from gpu.table import Figure, Row, Skipped


def rows(device: torch.device, sizes: Sizes) -> list[Row]:
    """Return the row."""
    what = f"{sizes.megabytes} MB to the GPU, from pinned memory and from other"
    return [Row("host to device", what, lambda: _transfer(device, sizes))]


def _transfer(device: torch.device, sizes: Sizes) -> Figure:
    if device.type == "cpu":
        raise Skipped("no GPU to send to")
    pageable = torch.ones(sizes.megabytes * 1_000_000, dtype=torch.uint8)
    there = torch.empty_like(pageable, device=device)

    def speed(here: Tensor) -> float:
        def step() -> float:
            there.copy_(here, non_blocking=True)
            wait(device)
            return sizes.megabytes / 1000

        return rate(step, device, sizes.seconds)

    return Figure(
        f"{speed(pageable.pin_memory()):.1f} GB/s pinned\n{speed(pageable):.1f} GB/s other"
    )
