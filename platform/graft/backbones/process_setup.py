"""How a process computes: on what it has leased, and with numbers that repeat."""

import os

import torch

from graft.backbones.malloc import keep_freed_memory
from graft.cpus import fitting_threads
from graft.errors import ResourceError


def set_up_process(cpus: int, gpus: int = 0) -> torch.device:
    """Prepare this process to compute, and return the device that it computes on.

    Whatever trains, fills the activation cache, evaluates, serves or looks for a learning rate
    calls this first, and computes on this device. A GPU that torch can see is no reason to use it:
    it may be leased to another job.

    float32 is float32 from here on, on any device: a GPU would by default round the inputs of
    convolutions to TF32, which moves logits farther than golden images tolerate. On a GPU the same
    work gives the same bits every time.

    Args:
        cpus: logical CPUs that the process has leased; as many threads compute, but no more than
            it really has CPUs.
        gpus: GPUs that it has leased, 0 or 1.

    Raises:
        ResourceError: a GPU was leased, and torch can use none here.
    """
    torch.set_num_threads(fitting_threads(cpus))
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Costs time, and nothing reads such memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if not gpus:
        return torch.device("cpu")
    if not has_gpu():
        raise ResourceError(
            "a GPU was asked for, and there is none here that torch can use; ask for 0 GPUs, or "
            "name a cluster in RAY_ADDRESS"
        )
    return torch.device("cuda", torch.cuda.current_device())


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    return torch.cuda.is_available()
