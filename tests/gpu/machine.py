"""The machine the rows run on, and what is done about what it has not."""

import importlib.util
import inspect
import os
import platform

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def describe(device: torch.device) -> str:
    """Return device, Python and torch in a line."""
    what = "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return (
        f"{what}, {os.cpu_count()} CPUs; Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def without_torchvision() -> bool:
    """Have Graft import and build where there is no torchvision; whether that is so here."""
    if importlib.util.find_spec("torchvision") is not None:
        return False
    from gpu.network import stand_in_for_torchvision

    stand_in_for_torchvision()
    return True


def on_older_torch() -> bool:
    """Have Graft's loop run where an option of torch's has its older name; whether that is so here.

    Since 2.13 DistributedDataParallel's broadcast_buffers is called forward_sync_buffers.
    """
    init = DistributedDataParallel.__init__
    if "forward_sync_buffers" in inspect.signature(init).parameters:
        return False

    def renamed(
        self: DistributedDataParallel,
        module: nn.Module,
        forward_sync_buffers: bool,
        gradient_as_bucket_view: bool,
    ) -> None:
        init(
            self,
            module,
            broadcast_buffers=forward_sync_buffers,
            gradient_as_bucket_view=gradient_as_bucket_view,
        )

    DistributedDataParallel.__init__ = renamed  # type: ignore[method-assign]
    return True


def join(device: torch.device) -> str:
    """Make this process a group of its own; return what brings gradients together."""
    if device.type == "cuda":
        try:
            _join("cpu:gloo,cuda:nccl", device)
            return "nccl"
        except Exception as error:
            print(f"NCCL does not start: {' '.join(str(error).split())[:58]}")
            if distributed.is_initialized():
                distributed.destroy_process_group()
    _join("gloo", device)
    return "gloo"


def _join(backend: str, device: torch.device) -> None:
    meet = distributed.HashStore()
    distributed.init_process_group(backend, store=meet, rank=0, world_size=1)
    distributed.all_reduce(torch.ones(1, device=device))
