"""Workers of one node meet in a file.

torch's usual meeting place is a port of the first worker, which listens on all addresses and asks
nobody who they are. Workers of several nodes need it: there a network policy is what closes it.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)


class _MeetInFile(_TorchBackend):  # type: ignore[misc]
    """Ray Train's backend for torch, but for how workers of one node meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        nodes = {worker.metadata.node_id for worker in worker_group.get_workers()}
        if len(nodes) > 1 or backend_config.backend is None:
            super().on_start(worker_group, backend_config)
            return
        folder = worker_group.execute_single(0, tempfile.mkdtemp, prefix="graft-meeting-")
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=size,
                    init_method=f"file://{Path(folder, 'meeting')}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(size)
            ]
        )


@dataclass
class MeetingTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's configuration of torch, with that backend; `backend` has to be named."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The backend's class."""
        return _MeetInFile
