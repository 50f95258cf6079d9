"""How a process is set up to compute."""

import os

import pytest
import torch

from graft.backbones.process_setup import set_up_process
from graft.errors import ResourceError


def numerics() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        "CUBLAS_WORKSPACE_CONFIG" in os.environ,
    )


def test_numbers_repeat_whatever_was_set_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    threads = torch.get_num_threads()
    assert set_up_process(threads + 1).type == "cpu"
    assert torch.get_num_threads() == threads + 1
    assert numerics() == (True, False, False, True)
    torch.set_num_threads(threads)


def test_a_gpu_that_is_seen_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    threads = torch.get_num_threads()
    assert set_up_process(threads) == torch.device("cpu")
    assert set_up_process(threads, gpus=1) == torch.device("cuda", 3)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="a GPU was asked for, and there is none here"):
        set_up_process(torch.get_num_threads(), gpus=1)
