"""Images of several models in one forward: each gets its own model's logits, and parts run once."""

from collections.abc import Callable

import numpy as np
import torch

from graft.serving.routes import Asked, Part, logits


class Counted:
    """A part that adds a number, and notes of how many images."""

    def __init__(self, number: int):
        self.number = number
        self.batches: list[int] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return torch.as_tensor(x).flatten(1)[:, :2].float() + self.number


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


def test_what_routes_begin_with_runs_once_and_each_image_goes_its_own_way() -> None:
    parts = {name: Counted(10**place) for place, name in enumerate("xabcde")}
    ways = ["xad", "xabc", "xab", "xad", "xe", "xabc"]
    asked = [
        Asked(tuple(parts[name] for name in way), image(index)) for index, way in enumerate(ways)
    ]
    assert len({one.root for one in asked}) == 1
    for index, (way, row) in enumerate(zip(ways, logits(asked), strict=True)):
        assert row.tolist() == [index + sum(parts[name].number for name in way)] * 2
    assert parts["x"].batches == [6]
    assert parts["a"].batches == [5]
    # `b` ends one way and goes on in another: it is another use of it.
    assert sum(parts["b"].batches) == 3
    assert [parts[name].batches for name in "cde"] == [[2], [2], [1]]


def test_models_may_have_other_numbers_of_classes() -> None:
    root: Part = torch.as_tensor

    def head(classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: torch.arange(classes).float().expand(len(x), classes) * x[:, :1, 0, 0]

    two, five = head(2), head(5)
    rows = logits([Asked((root, way), image(1)) for way in (five, two, five)])
    assert [row.tolist() for row in rows] == [[*range(5)], [*range(2)], [*range(5)]]
