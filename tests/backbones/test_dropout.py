"""Dropout's masks: how many, how scaled, in whose memory order, and repeatable."""

import pytest
import torch

from graft.backbones.dropout import Dropout


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_elements_are_dropped_and_the_others_scaled(p: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 1003) + 1
    y = Dropout(p)(x)
    # 64,192 draws: five standard deviations are below 0.01.
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    scale = y[y != 0] / x[y != 0]
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (1 - p)), rtol=2e-4, atol=0)
    # No element goes with another: neighbours are drawn from the same 64 bits.
    survives = (y != 0).float().flatten()
    for distance in (1, 2, 3, 4):
        together = (survives[:-distance] * survives[distance:]).mean().item()
        assert together == pytest.approx((1 - p) ** 2, abs=0.015)


def test_the_same_seed_drops_the_same() -> None:
    dropout, x = Dropout(0.5), torch.ones(8, 5, 3, 3)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (3, 5), (1,), (0, 4)])
def test_memory_order_and_input_stay(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape) + 1
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    before = x.clone()
    y = Dropout(0.5)(x)
    assert y.shape == x.shape
    assert y.stride() == x.stride()
    assert torch.equal(x, before)


def test_gradients_pass_where_elements_stay() -> None:
    x = torch.ones(32, 32, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_where_nothing_should_be(p: float, training: bool) -> None:
    x = torch.rand(4, 4)
    assert torch.equal(Dropout(p).train(training)(x), x)


def test_all_is_dropped_at_one() -> None:
    assert not Dropout(1.0)(torch.ones(4, 4)).any()
