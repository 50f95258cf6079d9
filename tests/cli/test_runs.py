"""`graft runs show`: what is shown of a finished run, and its confusion matrix as a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import commands
from colours import colour_spec
from graft.cluster.job_progress import job_progress
from graft.spec import dump_job
from graft.store import Store, document_bytes
from graft.training.confusion_matrix import put_confusion
from graft.training.run_records import Epoch, put_metrics
from graft.training.stalls import record_stall
from graft.training.step_checkpoint import StepCheckpoint

PNG = b"\x89PNG\r\n\x1a\n as training drew it"
NAMES = [f"[b]class {i}" for i in range(14)]
OLD_VAL = {"accuracy": 0.5, "loss": 1.0, "macro_f1": 0.4, "recall": {"ants": 0.25, "bees": None}}
VAL = {"accuracy": 0.5, "loss": 1.0, "macro_f1": 0.4, "ece": 0.0625}
COUNTS = np.diag(np.full(14, 3))
"""Of four images each three are right and one is the first class, but those of the second one."""
COUNTS[:, 0] += 1
COUNTS[1] = 0
COUNTS[1, 2] = 1


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with an unfinished run, one that an older Graft finished, and one of today's."""
    uri = str(tmp_path_factory.mktemp("runs") / "store")
    store = Store.open(uri)
    for run in ("unfinished", "old", "new"):
        store.create(f"runs/{run}/spec.yaml", dump_job(colour_spec()).encode())
    result: dict[str, Any] = {
        "run": "old",
        "model": "colours@1",
        "weights": "last",
        "epoch": 3,
        "metrics": {"train": {}, "val": OLD_VAL},
        "seconds": 1.0,
        "images_per_second": 1.0,
        "trunk_digest": 64 * "0",
        "freeze": 0,
        "dataset": "colours@v1",
        "attempt": 1,
        "history": [],
        "created": "2026-01-01T00:00:00+00:00",
    }
    store.create("runs/old/result.json", json.dumps(result).encode())
    ref = store.put("runs/new", "confusion.png", PNG)
    counts = put_confusion(store, "runs/new", COUNTS, NAMES)
    metrics = {"train": {}, "val": VAL, "initial": {"accuracy": 0.125, "loss": 2.75}}
    result |= {"run": "new", "metrics": metrics, "confusion_png": ref.model_dump()}
    result |= {"confusion": counts.model_dump()}
    store.create("runs/new/result.json", json.dumps(result).encode())
    return uri


def show(uri: str, *arguments: str) -> commands.Done:
    return commands.main("runs", "show", *arguments, "--store", uri)


def rows(output: str) -> list[list[str]]:
    """The cells of every table's rows."""
    lines = [line.replace("┃", "│") for line in output.splitlines()]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_a_result_is_shown(uri: str) -> None:
    output = show(uri, "new").stdout
    table = rows(output)
    assert ["val calibration error", "0.0625"] in table
    assert ["before training", "accuracy 0.1250, loss 2.7500"] in table
    start = table.index(["class", "recall", "precision"])
    assert table[start + 1] == [NAMES[0], "1.0000", "0.2500"]
    assert table[start + 2] == [NAMES[1], "0.0000", "never predicted"]
    assert table[start + 3] == [NAMES[2], "0.7500", "0.7500"]
    assert len(table[start + 1 :]) == 12
    assert "2 more classes" in output


def test_an_old_result_is_shown_as_far_as_it_goes(uri: str) -> None:
    table = rows(show(uri, "old").stdout)
    assert ["val accuracy", "0.5000"] in table
    assert "before training" not in [row[0] for row in table]
    start = table.index(["class", "recall"])
    assert table[start + 1 :] == [["ants", "0.2500"], ["bees", "no images"]]


def test_the_confusion_matrix_is_written(uri: str, tmp_path: Path) -> None:
    file = tmp_path / "confusion.png"
    file.write_bytes(b"what was here before")
    done = show(uri, "new", "--confusion", str(file), "--json")
    val = json.loads(done.stdout)["result"]["metrics"]["val"]
    assert val["ece"] == 0.0625
    assert val["recall"] == dict.fromkeys(NAMES, 0.75) | {NAMES[0]: 1.0, NAMES[1]: 0.0}
    assert val["confusion"] == COUNTS.tolist()
    assert file.read_bytes() == PNG
    assert list(tmp_path.iterdir()) == [file]


def test_an_unfinished_run_says_how_to_go_on(uri: str) -> None:
    output = show(uri, "unfinished").stdout
    assert "unfinished, attempt 0: graft runs resume unfinished" in output


def test_an_unfinished_run_says_where_it_would_go_on_and_what_stalled(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.create("runs/broken/spec.yaml", dump_job(colour_spec()).encode())
    put_metrics(store, "broken", 1, Epoch(epoch=1, train={}, val=VAL))
    assert "goes on after epoch 1: graft runs resume broken" in show(store.uri, "broken").stdout
    folder = "runs/broken/attempt-1/steps/00000012"
    checkpoint = StepCheckpoint(
        run="broken",
        attempt=1,
        epoch=1,
        step=12,
        done=7,
        steps=5000,
        workers=2,
        freeze=0,
        trunk_digest=64 * "0",
        initial={},
        tensors=store.put(folder, "tensors.safetensors", b""),
    )
    store.create(f"{folder}/checkpoint.json", document_bytes(checkpoint))
    record_stall(store, "broken", 1, 1, 600.0)
    output = " ".join(show(store.uri, "broken").stdout.split())
    assert "goes on in epoch 2 after step 7/5000: graft runs resume broken" in output
    assert "attempt 1: worker 1 made no step for 600 s and was ended at 20" in output
    document = json.loads(show(store.uri, "broken", "--json").stdout)
    assert document["goes_on"] == {"epochs": 1, "step": 7, "steps": 5000}
    (stall,) = document["stalls"]
    assert "test_runs.py" in stall["stacks"]
    progress = "epoch 1/3, val accuracy 0.5000 loss 1.0000, checkpoint in epoch 2 after step 7/5000"
    assert job_progress(store, "broken", "finetune") == progress


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("unfinished", "graft: unfinished is unfinished and has no confusion matrix yet"),
        ("old", "graft: old has no picture of its confusion matrix"),
    ],
)
def test_a_run_without_a_confusion_matrix(uri: str, tmp_path: Path, run: str, message: str) -> None:
    done = show(uri, run, "--confusion", str(tmp_path / "confusion.png"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_confusion_matrix_that_cannot_be_written(uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "confusion.png"):
        done = show(uri, "new", "--confusion", str(place))
        assert done.returncode == 2
        assert str(place) in done.stderr.replace("\n", "")
