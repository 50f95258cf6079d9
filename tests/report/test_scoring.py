"""The figures of evaluations and comparisons, against scikit-learn's and by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    log_loss,
    top_k_accuracy_score,
)

from graft.report.comparison import compare
from graft.report.predictions import Predictions, from_parquet, to_parquet
from graft.report.scoring import reliability, score, share_interval


def predictions(
    count: int = 500, classes: int = 4, seed: int = 0, skill: float = 1.5, model: str = "m@1"
) -> Predictions:
    """Images whose labels are the same for every seed; `skill` is how clearly they are seen."""
    labels = np.random.default_rng(99).integers(0, classes, count)
    logits = np.random.default_rng(seed).normal(size=(count, classes))
    logits[np.arange(count), labels] += skill
    return Predictions(
        model=model,
        dataset="d@1",
        split="test",
        classes=tuple(f"class {number}" for number in range(classes)),
        images=tuple(f"{number:064x}" for number in range(count)),
        paths=tuple(f"{number}.jpg" for number in range(count)),
        labels=labels,
        logits=logits.astype(np.float32),
    )


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_scores_are_scikit_learns(classes: int) -> None:
    made = predictions(classes=classes)
    found = score(made)
    labels, predicted = made.labels, made.logits.argmax(1)
    shares = np.exp(made.logits.astype(float))
    shares /= shares.sum(1, keepdims=True)
    assert found.accuracy == accuracy_score(labels, predicted)
    assert found.loss == pytest.approx(log_loss(labels, shares), rel=1e-6)
    table = classification_report(labels, predicted, output_dict=True)
    assert found.macro_f1 == pytest.approx(table["macro avg"]["f1-score"])
    for number, one in enumerate(found.classes):
        row = table[str(number)]
        assert (one.recall, one.precision, one.f1, one.images) == pytest.approx(
            (row["recall"], row["precision"], row["f1-score"], row["support"])
        )
    recalls = [one.recall for one in found.classes if one.recall is not None]
    assert np.mean(recalls) == pytest.approx(balanced_accuracy_score(labels, predicted))
    if classes > 5:
        assert found.top5_accuracy == top_k_accuracy_score(labels, made.logits, k=5)
    else:
        assert found.top5_accuracy is None
    assert np.trace(found.confusion) == (labels == predicted).sum()


def test_the_reliability_diagram_is_scikit_learns() -> None:
    made = predictions(2000)
    confidence, right = made.probabilities.max(1), made.right
    found = [b for b in reliability(confidence, right) if b.images]
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    assert [b.accuracy for b in found] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in found] == pytest.approx(mean.tolist())
    gaps = [abs(b.accuracy - b.confidence) * b.images for b in found]  # type: ignore[operator]
    assert score(made).ece == pytest.approx(sum(gaps) / 2000)


def test_a_class_without_images_and_one_never_predicted() -> None:
    made = predictions(3, classes=3)
    made.labels[:] = 0
    made.logits[:] = [1.0, 2.0, 0.0]
    found = score(made)
    assert [one.recall for one in found.classes] == [0.0, None, None]
    assert [one.precision for one in found.classes] == [None, 0.0, None]
    assert [one.f1 for one in found.classes] == [0.0, 0.0, None]


def test_wilsons_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263.
    found = share_interval(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert share_interval(5, 5).high == 1.0


def test_the_most_confident_mistakes_come_first() -> None:
    made = predictions()
    wrong = score(made).wrong
    top = made.probabilities.max(1)
    expected = sorted(top[~made.right], reverse=True)[: len(wrong)]
    assert [one.probability for one in wrong] == pytest.approx(expected)
    assert all(one.label != one.predicted for one in wrong)


def test_mcnemars_numbers() -> None:
    first, second = predictions(seed=1, skill=1.0), predictions(seed=2, skill=2.0, model="m@2")
    found = compare(first, second)
    a, b = first.right, second.right
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (
        int((a & b).sum()),
        int((a & ~b).sum()),
        int((~a & b).sum()),
        int((~a & ~b).sum()),
    )
    # With many images on which they differ, the exact test is near McNemar's chi-squared one
    # with its correction for continuity.
    b_, c = found.only_first, found.only_second
    assert found.p_value == pytest.approx(chi2.sf((abs(b_ - c) - 1) ** 2 / (b_ + c), 1), rel=0.2)
    assert found.outcome == "better"
    assert compare(second, first).outcome == "worse"
    low, high = found.difference_interval.low, found.difference_interval.high
    assert low < found.difference < high
    assert found.difference == pytest.approx(b.mean() - a.mean())
    spread = np.std(b.astype(float) - a) / np.sqrt(len(a))  # of the normal approximation
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.05)
    assert len(found.changed) == b_ + c


def test_an_exact_small_case() -> None:
    # Of 9 images the second model alone gets 5 and the first alone 1:
    # 2 * (C(6,0) + C(6,1)) / 2^6.
    first, second = (_right(flags) for flags in ("101000000", "011111100"))
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (1, 5)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert found.outcome == "not shown"


def _right(flags: str) -> Predictions:
    made = predictions(len(flags), classes=2)
    wanted: NDArray[np.int64] = np.where([f == "1" for f in flags], made.labels, 1 - made.labels)
    made.logits[:] = np.eye(2, dtype=np.float32)[wanted]
    return made


def test_the_same_predictions_show_nothing() -> None:
    found = compare(predictions(), predictions(model="m@2"))
    assert (found.p_value, found.outcome, found.changed) == (1.0, "not shown", ())
    assert (found.difference_interval.low, found.difference_interval.high) == (0, 0)


def test_predictions_survive_parquet() -> None:
    made = predictions()
    back = from_parquet(to_parquet(made))
    assert (back.model, back.dataset, back.split) == (made.model, made.dataset, made.split)
    assert (back.classes, back.images, back.paths) == (made.classes, made.images, made.paths)
    assert np.array_equal(back.labels, made.labels)
    assert np.array_equal(back.logits, made.logits)
