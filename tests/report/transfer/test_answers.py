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


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, "1 seed: no interval can be claimed"),
        (2, "2 seeds: no interval can be claimed"),
        (3, "3 seeds: of 3 gains, one below"),
        (5, None),
    ],
)
def test_few_seeds_are_told_what_they_cannot_show(seeds: int, said: str | None) -> None:
    mistakes = {"scratch": 5, "features": 1, "partial": 1, "full": 1}
    (backbone,) = answers("r", recorded_spec(seeds=seeds), mistakes).backbones
    warned = [warning for warning in backbone.warnings if "seed" in warning]
    assert (len(warned), [w for w in warned if w.startswith(said or "-")]) == (
        (1, warned) if said else (0, [])
    )


def test_an_arm_that_still_gets_better_is_named() -> None:
    """Its best epoch is the last but one, and its patience two."""
    arms = {
        name: {"freeze": 0, "epochs": 3, "rates": [0.01], "patience": 2}
        for name in ("scratch", "features", "partial", "full")
    }
    mistakes = dict.fromkeys(arms, 1)
    (backbone,) = answers("r", recorded_spec(arms=arms), mistakes).backbones
    for arm in arms:
        assert (
            f"{arm} was still getting better in its last epoch with 50 labels; raise "
            f"arms.{arm}.epochs"
        ) in backbone.warnings


def test_what_is_best_need_not_be_shown() -> None:
    mistakes = {"scratch": 3, "features": 3, "partial": 3, "full": 2}
    (backbone,) = answers("r", recorded_spec(), mistakes).backbones
    assert backbone.take == "full"
    assert backbone.why.startswith("best with all labels, though not shown to beat scratch: full")


@pytest.mark.parametrize(("full", "features", "shown"), [(2, 1, "not shown"), (9, 0, "shown")])
def test_of_two_backbones_the_more_accurate_is_taken(full: int, features: int, shown: str) -> None:
    """Of the first one `full` is the best arm, or none is; of the second one `features`."""
    first = {"scratch": 9, "features": 9, "partial": 9, "full": full}
    second = {"scratch": 9, "features": features, "partial": 9, "full": 9}
    spec = recorded_spec(other_backbones=[{"arch": "resnet18", "weights": "b.pth"}])
    both = answers("r", spec, first, second)
    archs = [backbone.arch for backbone in both.backbones]
    assert (both.take, archs) == (1, ["squeezenet1_1", "resnet18"])
    assert f" of squeezenet1_1 (pretrained.pth), {shown}" in (both.why or "")
