"""`graft backbones`: what is listed, shown and proved, through the real command."""

import json
import re
from pathlib import Path

import pytest
import torchvision
from safetensors.torch import save_file

import commands


def backbones(*arguments: str, columns: int = 120) -> commands.Done:
    return commands.main("backbones", *arguments, env={"COLUMNS": str(columns)})


def test_all_architectures_are_listed() -> None:
    listed = json.loads(backbones("ls", "--json").stdout)["backbones"]
    known = torchvision.models.list_models(module=torchvision.models)
    assert sorted(row["name"] for row in listed) == sorted(known)
    resnet = next(row for row in listed if row["name"] == "resnet50")
    assert resnet == {
        "name": "resnet50",
        "stages": 5,
        "parameters": 25557032,
        "gflops": 4.089,
        "crop": 224,
        "accuracy": 80.858,
        "weights": ["ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2"],
    }
    table = backbones("ls").stdout
    assert all(name in table for name in known)


def test_an_architecture_is_shown_stage_by_stage() -> None:
    document = json.loads(backbones("show", "resnet18", "--crop", "64", "--json").stdout)
    assert [part["name"] for part in document["parts"]] == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "head")
    ]
    layer2 = document["parts"][2]
    assert (layer2["shape"], layer2["bytes"]) == ([128, 8, 8], 4 * 128 * 8 * 8)
    page = backbones("show", "vgg16").stdout
    assert "features.24 .. features.30" in page
    assert "102,764,544" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "resnet5"], "unknown architecture 'resnet5'; did you mean"),
        (["show", "vit_b_16", "--crop", "100"], "the nearest is 96"),
        (["show", "alexnet", "--crop", "32"], "too small for alexnet"),
        (["verify"], "name one architecture, or add --all"),
        (["verify", "resnet18", "--all"], "name one architecture, or add --all"),
        (["verify", "--all", "--weights", "w.pth"], "--weights is for one architecture"),
        (["verify", "resnet81"], "did you mean 'resnet18'"),
        (["verify", "squeezenet1_1", "--weights", "none.pth"], "no file none.pth"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = backbones(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_architecture_is_verified_with_the_users_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(torchvision.models.squeezenet1_1().state_dict(), file)
    done = backbones("verify", "squeezenet1_1", "--weights", str(file), "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["weights"] == str(file)
    checks = document["backbones"]["squeezenet1_1"]
    assert [check["name"] for check in checks] == [
        *("owned once", "equal at every depth", "state dict", "frozen stays")
    ]
    assert all(check["passed"] for check in checks)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(torchvision.models.squeezenet1_1().state_dict(), file)
    done = backbones("verify", "resnet18", "--weights", str(file))
    assert done.returncode == 2
    assert "does not fit" in done.stderr


@pytest.mark.slow  # a command for each architecture of the page
def test_the_documentation_shows_what_the_command_shows() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
    pattern = r"```bash\ngraft backbones show (\S+)\n```\n\n```text\n(.*?)\n```"
    shown = dict(re.findall(pattern, page, re.DOTALL))
    assert {"resnet50", "vit_b_16", "convnext_tiny"} <= set(shown)
    for arch, text in shown.items():
        printed = backbones("show", arch, columns=100).stdout
        assert [line.rstrip() for line in printed.splitlines()] == text.splitlines()
