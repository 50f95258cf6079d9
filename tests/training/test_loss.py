"""Class weights, smoothing and mixing against torch's own."""

import pytest
import torch
from torch.nn import functional

from graft.errors import SpecError
from graft.spec import Train
from graft.training.loss import Objective, class_weights

CLASSES = ("ant", "bee", "wasp")
LABELS = [0] * 6 + [1] * 3 + [2] * 1
CPU = torch.device("cpu")


def objective(**train):
    return Objective.of(Train(**train), LABELS, CLASSES, CPU)


def test_balanced_weights_give_every_class_the_same_say():
    weights = class_weights(Train(class_weights="balanced"), LABELS, CLASSES)
    counts = torch.tensor([6, 3, 1])
    assert weights * counts == pytest.approx(torch.full((3,), 10 / 3))


def test_named_weights_keep_their_ratios_and_the_mean_image_weighs_one():
    named = {"wasp": 4.0, "ant": 1.0, "bee": 2.0}
    weights = class_weights(Train(class_weights=named), LABELS, CLASSES)
    assert weights / weights[0] == pytest.approx(torch.tensor([1.0, 2.0, 4.0]))
    assert weights[torch.tensor(LABELS)].mean().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"ant": 1.0, "bee": 1.0}, "missing wasp"),
        ({"ant": 1.0, "bee": 1.0, "wasp": 1.0, "fly": 1.0}, "unknown fly"),
    ],
)
def test_weights_that_do_not_name_the_classes_are_refused(weights, message):
    with pytest.raises(SpecError, match=message):
        class_weights(Train(class_weights=weights), LABELS, CLASSES)


def test_losses_are_those_of_torch():
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    made = objective(class_weights="balanced", label_smoothing=0.1)
    expected = functional.cross_entropy(
        logits, labels, made.class_weights, label_smoothing=0.1, reduction="sum"
    )
    assert made.losses(logits, labels).sum() == pytest.approx(expected)


def test_adjusted_logits_ask_more_of_rare_classes():
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    priors = torch.tensor([0.6, 0.3, 0.1])
    adjusted = objective(logit_adjustment=1.5).losses(logits, labels)
    expected = functional.cross_entropy(logits + 1.5 * priors.log(), labels, reduction="none")
    torch.testing.assert_close(adjusted, expected)
    torch.testing.assert_close(
        objective().losses(logits, labels),
        functional.cross_entropy(logits, labels, reduction="none"),
    )


def test_adjustment_finds_the_classes_as_they_look_and_not_as_often_as_they_come():
    """Two classes that look the same, one nine times as frequent: balanced logits know neither."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    bias = torch.zeros(2, requires_grad=True)
    made = Objective.of(Train(logit_adjustment=1.0), labels.tolist(), CLASSES[:2], CPU)
    optimiser = torch.optim.LBFGS([bias], max_iter=50)

    def closure():
        optimiser.zero_grad()
        loss = made.losses(bias.expand(100, 2), labels).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert (bias[0] - bias[1]).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixed_targets_are_probabilities_of_what_is_in_the_image(kind):
    torch.manual_seed(0)
    made = objective(**{kind: 1.0})
    labels = torch.tensor([0, 1, 2, 1])
    # Each image is filled with its label's one-hot colour, so its mean is its composition.
    images = functional.one_hot(labels, 3).float()[:, :, None, None].expand(-1, -1, 32, 32)
    mixed, targets = made.mix(images.clone(), labels)
    assert targets.sum(1) == pytest.approx(torch.ones(4))
    assert not torch.equal(targets.amax(1), torch.ones(4))
    assert mixed.mean((2, 3)) == pytest.approx(targets, abs=1e-5)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_without_mixing_and_with_a_single_image_nothing_is_mixed():
    images, labels = torch.randn(1, 3, 4, 4), torch.tensor([1])
    for made in (objective(), objective(mixup_alpha=1.0)):
        assert made.mix(images, labels) == (images, labels)
