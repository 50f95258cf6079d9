"""`graft models`: list, show, promote."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

import commands
from graft.registry import Lineage, ModelDraft, Verdict, get_model, record_verdict, register
from graft.spec import Contract, LinearHead
from graft.store import Store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two versions of one model."""
    uri = str(tmp_path_factory.mktemp("models"))
    for i in range(2):
        lineage = Lineage(
            run=f"ants-{i}",
            dataset="ants-bees",
            dataset_version="v1",
            spec={"kind": "finetune"},
            weights="imagenet",
            weights_sha256=None,
            packages={"torch": "2.15.0"},
            git_commit=None,
        )
        draft = ModelDraft(
            name="ants-bees",
            arch="resnet18",
            head=LinearHead(),
            dropout=None,
            classes=("ants", "[bees]"),
            contract=Contract(max_side=512),
            freeze=1,
            stages=(32 * "c1",),
            trunk_digest=32 * "c1",
            metrics={"val": {"accuracy": 0.9 + i / 100, "loss": 0.2}},
            weights="best",
            epoch=3,
            lineage=lineage,
        )
        register(Store.open(uri), draft, b"tail", b"golden")
    return uri


def models(uri: str, *arguments: str) -> commands.Done:
    return commands.main("models", *arguments, "--store", uri)


def document(uri: str, *arguments: str) -> Any:
    done = models(uri, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_empty_store_has_no_models(tmp_path: Path) -> None:
    assert document(str(tmp_path), "ls") == {"models": []}
    assert "train" in models(str(tmp_path), "show", "ants").stderr


def test_promote_moves_what_the_bare_name_means(uri: str) -> None:
    assert document(uri, "show", "ants-bees")["model"] == "ants-bees@2"
    promoted = document(uri, "promote", "ants-bees@1", "--alias", "champion")
    assert promoted == {"model": "ants-bees@1", "alias": "champion"}
    shown = document(uri, "show", "ants-bees")
    assert shown["model"] == "ants-bees@1"
    assert shown["aliases"] == ["champion"]
    assert shown["lineage"]["run"] == "ants-0"
    listed = document(uri, "ls")["models"]
    assert [(row["model"], row["aliases"]) for row in listed] == [
        ("ants-bees@1", ["champion"]),
        ("ants-bees@2", []),
    ]


def test_the_history_of_aliases_says_who_moved_them_and_why(uri: str) -> None:
    store, why = Store.open(uri), "a gain of 3.1 points (1.2 to 5.0) with all labels"
    better = Verdict(against="scratch", outcome="better", p_value=0.01, why=why, report="r")
    record_verdict(store, get_model(store, "ants-bees@2"), better)
    models(uri, "promote", "ants-bees@2", "--alias", "candidate")
    *_, move = document(uri, "history", "ants-bees")["moves"]
    assert (move["alias"], move["from"], move["to"]) == ("candidate", None, 2)
    assert (move["command"], move["basis"]) == ("graft models promote", "shown")
    assert move["who"].endswith(f"@{socket.gethostname()}")
    assert move["self_declared"]
    page = commands.main("models", "history", "ants-bees", "--store", uri, env={"COLUMNS": "80"})
    assert f"candidate → 2: better, against scratch: {why} (r)" in " ".join(page.stdout.split())
    assert "did you mean 'ants-bees'?" in models(uri, "history", "ants-beas").stderr


def test_tables_show_names_as_they_are(uri: str) -> None:
    assert "0.9100" in models(uri, "ls").stdout
    assert "ants, [bees]" in models(uri, "show", "ants-bees@2").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "ants-beas"], "did you mean 'ants-bees'?"),
        (["show", "ants-bees@7"], "no version or alias '7'"),
        (["promote", "ants-bees@7"], "no version or alias '7'"),
        (["promote", "ants-bees@1", "--alias", "3"], "not a number"),
    ],
)
def test_mistakes_are_one_line(uri: str, arguments: list[str], message: str) -> None:
    done = models(uri, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
