"""The figures of an evaluation, against scikit-learn's and by hand."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    log_loss,
    top_k_accuracy_score,
)

from graft.report.evaluation.compute_scores import (
    compute_scores,
    count_confusions,
    expected_calibration_error,
    reliability,
    share_interval,
)
from graft.training.metrics import Tally
from report.evaluation.made_up import predictions


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_scores_are_scikit_learns(classes: int) -> None:
    made = predictions(classes=classes)
    scores = compute_scores(made)
    labels, predicted = made.labels, made.logits.argmax(1)
    shares = np.exp(made.logits.astype(float))
    shares /= shares.sum(1, keepdims=True)
    assert scores.accuracy == accuracy_score(labels, predicted)
    assert scores.loss == pytest.approx(log_loss(labels, shares), rel=1e-6)
    table = classification_report(labels, predicted, output_dict=True)
    assert scores.macro_f1 == pytest.approx(table["macro avg"]["f1-score"])
    for number, scored in enumerate(scores.classes):
        row = table[str(number)]
        assert (scored.recall, scored.precision, scored.f1, scored.images) == pytest.approx(
            (row["recall"], row["precision"], row["f1-score"], row["support"])
        )
    recalls = [scored.recall for scored in scores.classes if scored.recall is not None]
    assert np.mean(recalls) == pytest.approx(balanced_accuracy_score(labels, predicted))
    if classes > 5:
        assert scores.top5_accuracy == top_k_accuracy_score(labels, made.logits, k=5)
    else:
        assert scores.top5_accuracy is None
    assert np.trace(count_confusions(made).counts) == (labels == predicted).sum()


def test_the_reliability_diagram_is_scikit_learns() -> None:
    made = predictions(2000)
    confidence, right = made.probabilities.max(1), made.right
    filled = [b for b in reliability(confidence, right) if b.images]
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    assert [b.accuracy for b in filled] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in filled] == pytest.approx(mean.tolist())
    squares = [(b.accuracy - b.confidence) ** 2 * b.images for b in filled]  # type: ignore[operator]
    plain = (sum(squares) / 2000) ** 0.5
    assert 0.9 * plain < compute_scores(made).ece < plain  # it is far from calibrated


@pytest.mark.parametrize(("overconfident", "images"), [(0.0, 60), (0.0, 1000), (0.1, 200)])
def test_the_calibration_error_is_not_what_chance_makes_of_it(
    overconfident: float, images: int
) -> None:
    random = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        confidence = random.uniform(0.5, 1, images)
        right = random.random(images) < confidence - overconfident
        errors.append(expected_calibration_error(confidence, right))
    if overconfident:
        assert np.median(errors) == pytest.approx(overconfident, abs=0.01)
    else:  # about half of the squares are below 0
        assert 0.4 < np.mean(np.equal(errors, 0)) < 0.7


def test_training_and_evaluation_have_the_same_calibration_error() -> None:
    made = predictions(300)
    tally = Tally.empty(4, torch.device("cpu"))
    logits, labels = torch.from_numpy(made.logits), torch.from_numpy(made.labels)
    for part in (slice(0, 100), slice(100, 300)):
        ones = torch.ones(len(labels[part]))
        tally.add(logits[part], labels[part], ones, ones)
    in_training = tally.metrics()["ece"]
    assert compute_scores(made).ece == pytest.approx(in_training, rel=1e-5)


def test_a_class_without_images_and_one_never_predicted() -> None:
    made = predictions(3, classes=3)
    made.labels[:] = 0
    made.logits[:] = [1.0, 2.0, 0.0]
    scores = compute_scores(made)
    assert [scored.recall for scored in scores.classes] == [0.0, None, None]
    assert [scored.precision for scored in scores.classes] == [None, 0.0, None]
    assert [scored.f1 for scored in scores.classes] == [0.0, 0.0, None]


def test_wilsons_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263.
    interval = share_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    assert share_interval(5, 5).high == 1.0


def test_the_most_confident_mistakes_come_first() -> None:
    made = predictions()
    wrong = compute_scores(made).wrong
    top = made.probabilities.max(1)
    expected = sorted(top[~made.right], reverse=True)[: len(wrong)]
    assert [image.probability for image in wrong] == pytest.approx(expected)
    assert all(image.label != image.predicted for image in wrong)
