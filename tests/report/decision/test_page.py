"""The page of a decision: what it shows, of which images, and whatever the classes are called."""

from hashlib import sha256

import numpy as np
import pytest

from graft.decisions.calibration import NONE
from graft.decisions.promises import Promise, PromiseKind, Target
from graft.decisions.records import Decision, DecisionDraft
from graft.decisions.rules import ClassThreshold, Sets, Thresholds
from graft.report.decision.measured import Measured, judge
from graft.report.decision.page import page_files
from graft.report.evaluation.predictions import Predictions

ODD = "a$%$b"
"""Matplotlib would read it as mathematics, and find it wrong."""


def predictions(count: int = 40) -> Predictions:
    draw = np.random.default_rng(0)
    digests = tuple(sha256(str(number).encode()).hexdigest() for number in range(count))
    labels = np.arange(count) % 2
    logits = draw.normal(size=(count, 2)) + 2 * np.eye(2)[labels]
    return Predictions(
        "m@1", "d@1", "test", (ODD, "other"), digests, digests, labels, logits.astype(np.float32)
    )


def draft(**changes: object) -> DecisionDraft:
    on = predictions()
    made = DecisionDraft(
        model="m@1",
        dataset="d@1",
        split="test",
        fitted_on=len(on.images),
        certified_on=80,
        error_before=0.1,
        error_after=0.1,
    ).model_copy(update=changes)
    return made.model_copy(update={"held": judge(on, NONE, made.rule)})


def page(made: DecisionDraft) -> tuple[str, dict[str, bytes]]:
    on = predictions()
    files = page_files(made, Measured.of(on, NONE), on)
    return files["report.html"].decode(), files


@pytest.mark.slow  # five pictures
def test_a_class_may_be_called_anything() -> None:
    kinds: tuple[PromiseKind, ...] = ("recall", "precision", "false-accepts")
    targets = [Target(kind=kind, name=ODD, value=0.4) for kind in kinds]
    rule = Thresholds(by_class=(ClassThreshold(name=ODD, threshold=0.5),))
    promises = tuple(Promise(target=each, images=40, kept=38, p_value=0.001) for each in targets)
    text, files = page(
        draft(rule=rule, promises=promises, confidence=0.95, level=0.05 / 6, tried_before=1)
    )
    assert {f"trade-off-{number}.png" for number in (1, 2, 3)} <= set(files)
    assert "Tested at a level of 0.0083, as try 2" in text
    assert "asked to certify 1 other thing of this model before" in text
    assert "On the 40 images that fit and order thresholds; those that certify are left out" in text


@pytest.mark.slow
def test_it_says_what_was_tried_and_used_and_left_out() -> None:
    lines = ("3 of 9 images trained m@1 (images of d@1)",)
    rule = Sets(threshold=0.3)
    made = draft(rule=rule, coverage=0.9, tried_before=2, used_before=4, left_out=lines)
    text, files = page(made)
    assert "asked to certify 2 other things" in text  # of sets, too
    assert "that were used 4 times before" in text
    assert f"left out: {lines[0]}" in text
    assert "sets.png" in files


def test_the_command_says_it_too() -> None:
    from rich.console import Console

    from graft.cli.show.decision import decision_page

    made = draft(rule=Sets(threshold=0.3), coverage=0.9, tried_before=2, used_before=1)
    decision = Decision(**dict(made), number=1, files={}, created="2026-01-01T00:00:00+00:00")
    console = Console(width=300)
    with console.capture() as shown:
        console.print(decision_page(decision))
    assert "2 other things with these images before" in shown.get()
    assert "that were used once before" in shown.get()
    tested = decision.model_copy(
        update={"level": 0.025, "tried_before": 0, "left_out": ("3 of 9",)}
    )
    with console.capture() as shown:
        console.print(decision_page(tested))
    assert "the first try with these images: tested at a level of 0.025" in shown.get()
    assert "3 of 9" in shown.get()
