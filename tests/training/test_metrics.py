"""Metrics agree with scikit-learn's, and add up over workers."""

import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, log_loss, recall_score, top_k_accuracy_score

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
    found = tally_of(logits, labels).metrics(names)
    predicted = logits.argmax(1)
    assert found["confusion"] == confusion_matrix(labels, predicted).tolist()
    assert found["accuracy"] == pytest.approx((predicted == labels).float().mean().item())
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    recall = recall_score(labels, predicted, average=None)
    assert list(found["recall"].values()) == pytest.approx(recall.tolist())
    assert found["loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-5)
    top5 = top_k_accuracy_score(labels, logits, k=5)
    assert found["top5_accuracy"] == pytest.approx(top5)


def test_parts_add_up_and_fillers_do_not_count():
    logits, labels = logits_and_labels()
    parts = [tally_of(logits[:23], labels[:23]), tally_of(logits[23:], labels[23:])]
    filler = torch.zeros(1)
    parts[1].add(logits[:1], labels[:1], image_losses(logits[:1], labels[:1]) * filler, filler)
    parts[0].confusion += parts[1].confusion
    parts[0].sums += parts[1].sums
    whole = tally_of(logits, labels).metrics(tuple("abcdefg"))
    assert torch.equal(parts[0].confusion, tally_of(logits, labels).confusion)
    assert parts[0].metrics(tuple("abcdefg"))["loss"] == pytest.approx(whole["loss"])
    assert parts[0].metrics(tuple("abcdefg"))["top5_accuracy"] == whole["top5_accuracy"]


def test_few_classes_have_no_top5_and_an_absent_class_no_recall():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]])
    found = tally_of(logits, torch.tensor([0, 1]), classes=3).metrics(("a", "b", "c"))
    assert "top5_accuracy" not in found
    assert found["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert found["macro_f1"] == 1.0
