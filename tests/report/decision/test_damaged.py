"""A damaged decision stops those who answer by it, and nobody else: another takes its place."""

import asyncio
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from graft.cli.commands.decisions import _warn_of_rule
from graft.decisions.records import DecisionDraft, decision_in_force, record_decision
from graft.decisions.rules import ClassThreshold, Thresholds
from graft.errors import ObjectDamaged
from graft.registry import ModelVersion, get_model
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.exchange import Exchange
from graft.serving.loader import Loader
from graft.serving.predictor import Predictor
from graft.store import Store
from models import encoded, picture, register_model
from report.decision.test_decide import graft


@pytest.fixture
def damaged(untrained: Store, tmp_path: Path) -> Store:
    """A store of its own with `colours@1`, whose last decision is none."""
    folder = untrained.uri.removeprefix("file://")
    store = Store.open(str(shutil.copytree(folder, tmp_path / "store")))
    version = get_model(store, "colours@1")
    record_decision(store, version, DecisionDraft(model=version.ref), {})
    store.create(f"{version.folder}/decisions/2.json", b'{"number": 2}')
    return store


def test_it_says_what_takes_its_place_and_that_does(damaged: Store) -> None:
    version = get_model(damaged, "colours@1")
    with pytest.raises(ObjectDamaged, match="`graft models decide colours@1 --plain`"):
        decision_in_force(damaged, version)
    for load in (Predictor.load, lambda store, version: Loader(store).load(version)):
        with pytest.raises(ObjectDamaged):
            load(damaged, version)
    done = graft(damaged, "decide", "colours@1", "--plain")
    assert done.returncode == 0, done.stderr
    decision = decision_in_force(damaged, version)
    assert decision is not None
    assert decision.number == 3


def test_who_needs_logits_alone_does_not_read_it(
    damaged: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    version = get_model(damaged, "colours@1")
    pixels = np.zeros((version.contract.crop, version.contract.crop, 3), np.uint8)
    predictor = Predictor.load(damaged, version, decides=False)
    assert predictor.decision is None
    assert predictor.logits([pixels]).shape == (1, 3)
    _warn_of_rule(damaged, version)
    assert "takes the place of a damaged one" in capsys.readouterr().err


class Listening:
    """Keeps what was exchanged."""

    def __init__(self) -> None:
        self.ended_: list[Exchange] = []

    def begun(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange) -> None:
        self.ended_.append(exchange)


def is_unknown(predictor: Predictor) -> bool:
    """Whether the metrics count an answer as `unknown`."""
    listening = Listening()

    async def once() -> None:
        transport = httpx.ASGITransport(create_app(Current(predictor), watchers=[listening]))
        async with httpx.AsyncClient(transport=transport, base_url="http://graft") as http:
            path = f"/v1/models/{predictor.version.name}/predict"
            assert (await http.post(path, content=encoded(picture(1)))).status_code == 200

    asyncio.run(once())
    predicted = listening.ended_[0].predicted
    assert predicted is not None
    assert predicted.decision == "unknown"
    return predicted.is_unknown


def test_a_class_called_unknown_is_an_answer(tmp_path: Path, untrained: Store) -> None:
    store = Store.open(str(tmp_path / "store"))
    version: ModelVersion = register_model(store, "odd", classes=("unknown",))
    assert not is_unknown(Predictor.load(store, version))
    never = tuple(
        ClassThreshold(name=name, threshold=0.9999)
        for name in get_model(untrained, "colours@1").classes
    )
    predictor = Predictor.load(untrained, get_model(untrained, "colours@1"))
    draft = DecisionDraft(model="colours@1", rule=Thresholds(by_class=never))
    decision = record_decision(store, version, draft, {})
    assert is_unknown(predictor.meaning(decision))
