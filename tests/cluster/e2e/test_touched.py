"""The scenarios that touch what has changed are ones that there are, and so are the paths."""

import re
from pathlib import Path

from cluster.e2e.touched import TOUCHED, touched

HERE = Path(__file__).parent


def test_every_path_and_every_scenario_exists() -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    scenarios = re.findall(r"^def test_(\w+)", text, re.MULTILINE)
    for path, names in TOUCHED.items():
        assert list(HERE.parents[2].glob(f"{path}*")), path
        for name in names:
            assert any(scenario.startswith(name) for scenario in scenarios), name


def test_each_scenario_is_named_once() -> None:
    changed = ["platform/graft/sweep/sweep_plan.py", "platform/graft/training/loop.py", "README.md"]
    assert touched(changed) == ["sweep", "head", "preempted"]
    assert touched(["README.md"]) == []


def test_each_commit_begins_with_another() -> None:
    changed = ["platform/graft/training/loop.py"]
    assert touched(changed, "a1") == ["sweep", "head", "preempted"]
    assert {touched(changed, f"{number:x}")[0] for number in range(3)} == set(touched(changed))


def test_scenarios_that_have_changed_are_touched() -> None:
    assert touched(["tests/cluster/e2e/test_serving.py"]) == [
        "service_answers_and_follows_a_promotion",
        "two_models_in_one_release",
        "serving_pods_are_deleted_and_evicted_under_load",
        "serving_scales_from_one_to_three_and_back_under_load",
    ]
    refusals = touched(["tests/cluster/e2e/test_refusals.py"])
    assert "wrong_credentials_of_the_store" in refusals
    assert "kuberay_that_is_too_old" not in refusals  # it takes no node
    no_scenarios = ("test_rights.py", "test_clock.py", "test_gone.py", "team.py")
    assert touched(f"tests/cluster/e2e/{name}" for name in no_scenarios) == []
