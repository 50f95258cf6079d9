"""From logits to an answer: each rule by examples, and how far an answer is from another one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from graft.decisions.calibration import NONE, Calibration
from graft.decisions.rules import (
    UNKNOWN,
    Answers,
    ClassThreshold,
    Costs,
    Likeliest,
    Rule,
    Sets,
    Thresholds,
    answer,
    decide,
    misfit,
)

CLASSES = ("ants", "bees", "cats")


def answered(rule: Rule, *rows: tuple[float, ...]) -> list[str]:
    """Return the answers to probabilities."""
    logits = np.log(np.array(rows)).astype(np.float32)
    answers = answer(logits, CLASSES, NONE, rule)
    return [answers.name(i) for i in range(len(rows))]


def thresholds(others: float = 0.0, **by_class: float) -> Thresholds:
    own = tuple(ClassThreshold(name=name, threshold=value) for name, value in by_class.items())
    return Thresholds(by_class=own, others=others)


def test_the_likeliest_class() -> None:
    assert answered(Likeliest(), (0.2, 0.5, 0.3), (0.4, 0.3, 0.3)) == ["bees", "ants"]


def test_the_first_class_that_reaches_its_threshold() -> None:
    rule = thresholds(ants=0.2, bees=0.6)
    assert answered(rule, (0.3, 0.65, 0.05)) == ["ants"]
    assert answered(rule, (0.1, 0.65, 0.25)) == ["bees"]
    assert answered(thresholds(bees=0.6, ants=0.2), (0.3, 0.65, 0.05)) == ["bees"]


def test_no_class_that_is_below_its_threshold() -> None:
    rule = thresholds(ants=0.7)
    assert answered(rule, (0.6, 0.3, 0.1), (0.3, 0.6, 0.1)) == ["unknown", "bees"]


def test_the_least_probability_of_the_others() -> None:
    rule = thresholds(others=0.5, ants=0.1)
    rows = (0.05, 0.6, 0.35), (0.05, 0.48, 0.47), (0.2, 0.7, 0.1)
    assert answered(rule, *rows) == ["bees", "unknown", "ants"]


def test_the_least_expected_cost() -> None:
    rule = Costs(costs=((0, 1, 1), (10, 0, 1), (1, 1, 0)), unknown=(0.3, 0.3, 0.3))
    # To say ants costs ten where it is bees.
    rows = (0.95, 0.01, 0.04), (0.9, 0.09, 0.01), (0.02, 0.96, 0.02)
    assert answered(rule, *rows) == ["ants", "unknown", "bees"]
    always = rule.model_copy(update={"unknown": None})
    assert answered(always, (0.9, 0.09, 0.01)) == ["ants"]


def test_sets_and_their_only_class() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.45, 0.05], [0.34, 0.33, 0.33]]))
    answers = answer(logits.astype(np.float32), CLASSES, NONE, Sets(threshold=0.4))
    assert [answers.name(i) for i in range(3)] == ["ants", "unknown", "unknown"]
    assert [answers.set_of(i) for i in range(3)] == [["ants"], ["ants", "bees"], []]
    assert answers.why(1) == "2 classes have at least 0.4"


def test_why() -> None:
    logits = np.log(np.array([[0.1, 0.65, 0.25], [0.55, 0.4, 0.05]])).astype(np.float32)
    answers = answer(logits, CLASSES, NONE, thresholds(ants=0.6, bees=0.5))
    assert answers.why(0) == "bees has 0.650, at least 0.5"
    assert answers.why(1) == "ants has 0.550, below 0.6"
    assert answer(logits, CLASSES, NONE, Likeliest()).why(0) == "the likeliest class"


@pytest.mark.parametrize(
    ("probability", "threshold", "said"),
    [
        (0.99965, 0.9997, "ants has 0.99965, below 0.9997"),
        (0.5, 0.9997, "ants has 0.500, below 0.9997"),
        (0.7499, 0.75, "ants has 0.7499, below 0.75"),
        (0.75, 0.75, "ants has 0.750, at least 0.75"),
        (0.5, 0.49996, "ants has 0.500, at least 0.5"),
    ],
)
def test_why_tells_a_probability_and_its_threshold_apart(
    probability: float, threshold: float, said: str
) -> None:
    p = np.array([[probability, 1 - probability, 0.0]])
    rule = thresholds(ants=threshold, bees=1.0)
    assert Answers(CLASSES, p, decide(p, CLASSES, rule), rule, reach=1.0).why(0) == said


def test_a_class_that_is_called_as_no_answer_is() -> None:
    classes = ("ants", "unknown")
    for rule in (thresholds(ants=0.5), Costs(costs=((0, 1), (1, 0))), Sets(threshold=0.5)):
        assert "has a class 'unknown'" in misfit(NONE, rule, classes)
    assert not misfit(NONE, Likeliest(), classes)


def test_a_calibration_comes_before_the_rule() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1]])).astype(np.float32)
    rule = thresholds(ants=0.65)
    assert answer(logits, CLASSES, NONE, rule).name(0) == "unknown"
    sharper = Calibration(method="temperature", scales=(2.0,))
    assert answer(logits, CLASSES, sharper, rule).name(0) == "ants"
    shifted = Calibration(method="vector", scales=(1, 1, 1), shifts=(0.0, 5.0, 0.0))
    assert answer(logits, CLASSES, shifted, Likeliest()).name(0) == "bees"


share = st.floats(0, 1)
rules = st.one_of(
    st.just(Likeliest()),
    st.builds(lambda a, b, o: thresholds(o, cats=a, ants=b), share, share, share),
    st.builds(
        lambda costs, unknown: Costs(
            costs=tuple(map(tuple, np.reshape(costs, (3, 3)).tolist())), unknown=unknown
        ),
        st.lists(st.floats(0, 10), min_size=9, max_size=9),
        st.one_of(st.none(), st.tuples(share, share, share)),
    ),
    st.builds(lambda t: Sets(threshold=t), share),
)


@settings(max_examples=50, deadline=None)
@given(rule=rules, scale=st.floats(0.1, 5), seed=st.integers(0, 2**16))
def test_an_answer_stays_within_its_distance(rule: Rule, scale: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    calibration = Calibration(method="temperature", scales=(scale,))
    logits = (3 * draw.normal(size=(50, 3))).astype(np.float32)
    answers = answer(logits, CLASSES, calibration, rule)
    assert (answers.distance >= 0).all()
    reach = np.minimum(answers.distance, 50)[:, None] * 0.999
    for _ in range(10):
        moved = logits + reach * draw.choice([-1.0, 1.0], size=logits.shape)
        again = answer(moved.astype(np.float32), CLASSES, calibration, rule)
        near = answers.distance < 1e-5  # float32 moves logits as far
        np.testing.assert_array_equal(again.decided[~near], answers.decided[~near])


def test_distances_are_not_far_too_small() -> None:
    logits = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert answer(logits, CLASSES, NONE, Likeliest()).distance[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("calibration", "rule", "problem"),
    [
        (Calibration(method="vector", scales=(1.0, 1.0)), Likeliest(), "for 2 classes"),
        (NONE, thresholds(dogs=0.5), "no class 'dogs'"),
        (
            NONE,
            Thresholds(by_class=2 * (ClassThreshold(name="ants", threshold=0.5),)),
            "two thresholds",
        ),
        (NONE, Costs(costs=((0, 1), (1, 0))), "not those of 3 classes"),
        (NONE, Costs(costs=((0, 1, 1),) * 3, unknown=(1.0,)), "not those of 3 classes"),
        (NONE, thresholds(ants=0.5), ""),
    ],
)
def test_what_does_not_belong_to_a_model(
    calibration: Calibration, rule: Rule, problem: str
) -> None:
    found = misfit(calibration, rule, CLASSES)
    assert problem in found
    assert bool(problem) == bool(found)


def test_a_rule_is_read_back_as_it_was_written() -> None:
    kinds: TypeAdapter[Rule] = TypeAdapter(Rule)
    for rule in (thresholds(0.2, ants=0.5), Sets(threshold=0.1), Likeliest()):
        assert kinds.validate_json(rule.model_dump_json()) == rule


def test_unknown_is_no_class() -> None:
    assert UNKNOWN not in range(len(CLASSES))
