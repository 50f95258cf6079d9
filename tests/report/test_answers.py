"""What a transfer report concludes from predictions; the trainings are made up."""

import pytest

from report.made_up import answers, asked


@pytest.mark.parametrize(("wrong", "learned"), [(10, False), (5, True)])
def test_scratch_that_learned_nothing_is_named(wrong: int, learned: bool) -> None:
    mistakes = {"scratch": wrong, "features": 1, "partial": 1, "full": 1}
    (found,) = answers("r", asked(), mistakes).backbones
    told = [warning for warning in found.warnings if "learned nothing" in warning]
    assert told == [] if learned else "the commonest class, 60.0 %" in told[0]
    assert found.title == "squeezenet1_1 (pretrained.pth)"
    assert found.take == "features"
    assert {gain.outcome for gain in found.gains} == {"better"}
    (_, *others) = found.generalisation
    assert all(one.against and one.against["gap"].outcome == "better" for one in others)
    assert {when.reached for when in found.plateaus} == {5}


def test_transfer_that_hurts_is_named_and_not_taken() -> None:
    mistakes = {"scratch": 5, "features": 10, "partial": 5, "full": 9}
    (found,) = answers("r", asked(), mistakes).backbones
    gains = {gain.arm: gain for gain in found.gains}
    outcomes = {arm: gain.outcome for arm, gain in gains.items()}
    assert outcomes == {"features": "worse", "partial": "not shown", "full": "worse"}
    assert [one for one in found.warnings if "hurts" in one] == [
        f"transfer hurts: {gains[arm]}" for arm in ("features", "full")
    ]
    assert str(gains["features"]).startswith("features at 100 % of the labels, -20.0 points of ")
    assert found.take == "scratch"
    assert found.why == (
        "no arm that transfers does better with all labels; shown to be worse: features, full"
    )
