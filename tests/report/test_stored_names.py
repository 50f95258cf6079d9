"""Names that stores and scripts depend on: the keys of report.json and of --json documents."""

import pytest
from pydantic import BaseModel

from graft.report.evaluation.comparison import Comparison
from graft.report.evaluation.scores import Scores
from graft.report.publishing import Report
from graft.report.shortlist.candidates import Candidate
from graft.report.transfer.answers import Answers

INTERVAL = {"low high level"}
ESTIMATE = INTERVAL | {"value interval seeds"}
KEYS: dict[type[BaseModel], set[str]] = {
    Report: {"report kind found files created", "name size sha256"},
    Scores: INTERVAL
    | {
        "model dataset split images copies loss accuracy accuracy_interval top5_accuracy macro_f1 "
        "ece classes confusion reliability wrong part seen left_out "
        "used_before",
        "name images recall precision f1",
        "low high images confidence accuracy",
        "sha256 path label predicted probability",
    },
    Comparison: INTERVAL
    | {
        "first second dataset split images copies accuracies both_right only_first only_second "
        "both_wrong difference difference_interval p_value outcome changed part left_out verdict "
        "used_before",
        "sha256 path label first second",
    },
    Answers: ESTIMATE
    | {
        "report dataset split images seeds backbones take why part left_out used_before",
        "arch weights points gains matches plateaus generalisation take why warnings sources ways",
        "arm freeze trunk_digest weights weights_sha256 head rates",
        "kind replaces",
        "kind hidden activation dropout replaces",
        "arm labels images tuned rate accuracy rising",
        "difference p_value outcome",
        "difference p_value outcome arm labels",
        "arm images scratch_images at_least interval outcome",
        "arm reached epochs interval images seconds cold_seconds p_value outcome",
        "arm gap ece corrupted corrupted_mean against",
        "arm labels seed rate trial epoch accuracy",
    },
    Candidate: {
        "arch weights accuracy deviation logme features parameters images_per_second costs "
        "computed",
        "depth through epoch_s cached_s",
    },
}
"""By the type of a document, the keys of it and of every object in it."""


@pytest.mark.parametrize("document", KEYS)
def test_keys_stay(document: type[BaseModel]) -> None:
    schema = document.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    assert {" ".join(part["properties"]) for part in parts} == KEYS[document]
