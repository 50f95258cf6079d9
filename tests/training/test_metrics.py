"""Metrics agree with scikit-learn's, and add up over workers."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from graft.training.confusion_matrix import ConfusionMatrix
from graft.training.metrics import Tally, image_losses

CPU = torch.device("cpu")


def logits_and_labels(images=60, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[range(images), labels] += 1.0
    return logits, labels


def tally_of(logits, labels, classes=7):
    tally = Tally.empty(classes, CPU)
    tally.add(logits, labels, image_losses(logits, labels), torch.ones(len(labels)))
    return tally


def test_metrics_are_scikit_learns():
    logits, labels = logits_and_labels()
    names = tuple("abcdefg")
    tally = tally_of(logits, labels)
    metrics = tally.metrics()
    by_class = ConfusionMatrix(names, tally.confusion.numpy()).by_class()
    predicted = logits.argmax(1)
    assert by_class["confusion"] == confusion_matrix(labels, predicted).tolist()
    assert metrics["accuracy"] == pytest.approx((predicted == labels).float().mean().item())
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    recall = recall_score(labels, predicted, average=None)
    assert list(by_class["recall"].values()) == pytest.approx(recall.tolist())
    precision = precision_score(labels, predicted, average=None)
    assert list(by_class["precision"].values()) == pytest.approx(precision.tolist())
    assert metrics["loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-5)
    top5 = top_k_accuracy_score(labels, logits, k=5)
    assert metrics["top5_accuracy"] == pytest.approx(top5)


def test_parts_add_up_and_fillers_do_not_count():
    logits, labels = logits_and_labels()
    parts = [tally_of(logits[:23], labels[:23]), tally_of(logits[23:], labels[23:])]
    parts[1].add(logits[:1], labels[:1], image_losses(logits[:1], labels[:1]), torch.zeros(1))
    for mine, others in zip(parts[0].tensors(), parts[1].tensors(), strict=True):
        mine += others
    whole = tally_of(logits, labels)
    assert parts[0].metrics() == pytest.approx(whole.metrics())
    assert torch.equal(parts[0].confusion, whole.confusion)


def test_few_classes_have_no_top5_and_an_absent_class_neither_recall_nor_precision():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]])
    tally = tally_of(logits, torch.tensor([0, 1]), classes=3)
    metrics = tally.metrics()
    assert "top5_accuracy" not in metrics
    by_class = ConfusionMatrix(("a", "b", "c"), tally.confusion.numpy()).by_class()
    assert by_class["recall"] == by_class["precision"] == {"a": 1.0, "b": 1.0, "c": None}
    assert metrics["macro_f1"] == 1.0


def test_calibration_error_by_hand():
    # Of two at 0.9 one is right, of two at 0.6 both are: products of two images' distances are
    # 0.1 * -0.9 and 0.4 * 0.4, each of two images of four.
    logits = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]]).log()
    metrics = tally_of(logits, torch.tensor([0, 0, 0, 1]), classes=2).metrics()
    assert metrics["ece"] == pytest.approx(((0.16 - 0.09) / 2) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_calibration_error_is_that_of_the_definition(scale):
    logits, labels = logits_and_labels(images=500, seed=1)
    probabilities = (logits * scale).softmax(1).numpy().astype(np.float64)
    top, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    edges = np.linspace(0, 1, 16)
    square = 0.0
    for low, high in itertools.pairwise(edges):
        distances = (right - top)[(low < top) & (top <= high)]
        if len(distances) > 1:  # the squared mean less its variance, which is its bias
            bias = distances.var(ddof=1) / len(distances)
            square += len(distances) / 500 * (distances.mean() ** 2 - bias)
    metrics = tally_of(logits * scale, labels).metrics()
    assert metrics["ece"] == pytest.approx(max(0, square) ** 0.5, rel=1e-5)


def test_a_model_that_diverged_has_no_finite_loss_nor_calibration():
    logits = torch.full((2, 3), float("nan"))
    metrics = tally_of(logits, torch.tensor([0, 1]), classes=3).metrics()
    assert np.isnan([metrics["loss"], metrics["ece"]]).all()


def test_losses_of_labels_and_of_probabilities():
    logits, labels = logits_and_labels(images=8)
    log_likelihood = logits.log_softmax(1)
    own = -log_likelihood[range(8), labels]
    assert torch.allclose(image_losses(logits, labels), own)

    smooth = 0.9 * own - 0.1 * log_likelihood.mean(1)
    assert torch.allclose(image_losses(logits, labels, label_smoothing=0.1), smooth)

    weights = torch.arange(1.0, 8.0)
    assert torch.allclose(image_losses(logits, labels, weights), weights[labels] * own)

    one_hot = torch.nn.functional.one_hot(labels, 7).float()
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    expected = 0.3 * own - 0.7 * log_likelihood[range(8), labels.flip(0)]
    assert torch.allclose(image_losses(logits, mixed), expected)
