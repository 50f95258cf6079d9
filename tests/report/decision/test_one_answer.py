"""The same bytes give one answer: by a server, a batch, an exported file and an evaluation."""

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data.importing import import_dataset
from graft.data.manifest import open_dataset
from graft.decisions.records import decision_in_force
from graft.decisions.rules import answer
from graft.prediction.run_prediction import create_prediction, run_prediction
from graft.registry import get_model
from graft.report.evaluation.evaluate import evaluate, predictions_of
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.engines.engine import OnnxEngine
from graft.serving.engines.export import export_version
from graft.serving.engines.golden import GOLDEN_TOLERANCE
from graft.serving.limits import Limits
from graft.serving.predictor import Predictor
from graft.spec import Prediction, Scaling
from graft.store import Store
from prediction.conftest import Here
from prediction.test_run_prediction import rows
from report.decision.conftest import draw_shades
from report.decision.test_decide import document

pytestmark = pytest.mark.slow


async def served(predictor: Predictor, files: list[bytes]) -> list[str]:
    """Return the decisions of a server."""
    limits = Limits(wait_s=600, answer_s=600)
    app = create_app(Current(predictor), limits=limits)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
        path = "/v1/models/colours/predict"
        answers = [await http.post(path, content=data) for data in files]
    return [str(one.json()["decision"]) for one in answers]


def test_one_answer(store: Store, tmp_path: Path) -> None:
    document(store, "decide", "colours", "--recall", "blue=0.5", "--accuracy", "0.6")
    version = get_model(store, "colours@1")
    decision = decision_in_force(store, version)
    assert decision is not None
    images = draw_shades(tmp_path / "thousand", {"train": 1, "val": 1, "test": 334}, seed=5)
    import_dataset(store, str(images), "thousand")
    dataset = open_dataset(store, "thousand")
    report = evaluate(store, version, dataset, "test", Scaling(), lambda done, total: None)
    evaluated = predictions_of(store, report)
    meant = answer(evaluated.logits, version.classes, decision.calibration, decision.rule)
    expected = [meant.name(i) for i in range(len(evaluated.images))]
    tolerance = GOLDEN_TOLERANCE * np.abs(evaluated.logits).max()
    sure = meant.distance > tolerance
    source = images / "test"
    files = [(images / path).read_bytes() for path in evaluated.paths]
    predictor = Predictor.load(store, version)

    asked = Prediction(kind="prediction", model="colours", source=str(source), part_images=200)
    prediction = create_prediction(store, asked)
    finished = run_prediction(store, prediction, Here(store), lambda *_: None)
    batch = {row["sha256"]: row["decision"] for row in rows(finished)}

    out = tmp_path / "colours.onnx"
    described = export_version(store, version, "onnx", out)
    assert described.decision == decision
    logits = OnnxEngine(out, 1).logits(np.stack([predictor.prepare(data) for data in files]))
    by_onnx = answer(logits, version.classes, decision.calibration, decision.rule)

    others = {
        "batch": [batch[digest] for digest in evaluated.images],
        "onnx": [by_onnx.name(i) for i in range(len(files))],
        "server": asyncio.run(served(predictor, files)),
    }
    for way, decisions in others.items():
        differ = different(expected, decisions)
        print(f"{way}: {differ.sum()} of {len(files)} differ, {(~sure).sum()} are near a boundary")
        assert not (differ & sure).any(), way
    assert len(files) > 1000
    assert len(set(expected)) > 2


def different(one: list[str], other: list[str]) -> NDArray[np.bool_]:
    return np.array([a != b for a, b in zip(one, other, strict=True)])
