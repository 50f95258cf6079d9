"""The learning rate as a function of the step."""

import pytest

from graft.spec import Constant, Cosine, Step
from graft.training.optim import rate_factor


def factors(schedule, epochs=4, steps=5):
    return [rate_factor(schedule, step, steps, epochs) for step in range(epochs * steps)]


def test_constant():
    assert set(factors(Constant())) == {1.0}


def test_steps_fall_at_epochs():
    found = factors(Step(kind="step", every=2, factor=0.1))
    assert found == pytest.approx([1.0] * 10 + [0.1] * 10)


def test_cosine_rises_and_falls():
    found = factors(Cosine(kind="cosine", warmup_epochs=1, final=0.1))
    assert found[:5] == sorted(found[:5])
    assert found[5] == 1.0
    assert found[5:] == sorted(found[5:], reverse=True)
    assert 0.1 < found[-1] < 0.12
