"""What a transfer report concludes from predictions; the trainings are made up."""

import pytest

from report.transfer.made_up import answers, recorded_spec


@pytest.mark.parametrize(("wrong", "learned"), [(10, False), (5, True)])
def test_scratch_that_learned_nothing_is_named(wrong: int, learned: bool) -> None:
    mistakes = {"scratch": wrong, "features": 1, "partial": 1, "full": 1}
    (backbone,) = answers("r", recorded_spec(), mistakes).backbones
    named = [warning for warning in backbone.warnings if "learned nothing" in warning]
    assert named == [] if learned else "the commonest class, 60.0 %" in named[0]
    assert backbone.title == "squeezenet1_1 (pretrained.pth)"
    assert backbone.take == "features"
    assert {gain.outcome for gain in backbone.gains} == {"better"}
    (_, *others) = backbone.generalisation
    assert all(arm.against and arm.against["gap"].outcome == "better" for arm in others)
    assert {plateau.reached for plateau in backbone.plateaus} == {5}


def test_transfer_that_hurts_is_named_and_not_taken() -> None:
    mistakes = {"scratch": 5, "features": 10, "partial": 5, "full": 9}
    (backbone,) = answers("r", recorded_spec(), mistakes).backbones
    gains = {gain.arm: gain for gain in backbone.gains}
    outcomes = {arm: gain.outcome for arm, gain in gains.items()}
    assert outcomes == {"features": "worse", "partial": "not shown", "full": "worse"}
    assert [warning for warning in backbone.warnings if "hurts" in warning] == [
        f"transfer hurts: {gains[arm]}" for arm in ("features", "full")
    ]
    assert str(gains["features"]).startswith("features at 100 % of the labels, -20.0 points of ")
    assert backbone.take == "scratch"
    assert backbone.why == (
        "no arm that transfers does better with all labels; shown to be worse: features, full"
    )


def test_labels_that_tuned_count_and_seconds_are_an_epochs() -> None:
    """Each training has 40 labels to train on and 10 more that chose its epoch and rate."""
    mistakes = {"scratch": 5, "features": 1, "partial": 1, "full": 1}
    (backbone,) = answers("r", recorded_spec(), mistakes).backbones
    assert {(point.images, point.labelled) for point in backbone.points} == {(40, 50)}
    assert {(match.images, match.at_least) for match in backbone.matches} == {(50, 50)}
    assert {(plateau.epochs, plateau.seconds) for plateau in backbone.plateaus} == {(2, 4)}
