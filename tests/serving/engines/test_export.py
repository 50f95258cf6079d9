"""What is exported gives what training recorded, from a file's bytes on, or nothing is written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from commands import main
from graft.backbones.trunk import load_model
from graft.errors import InputError, ServingError
from graft.registry import ModelVersion
from graft.serving.engines.description import Description, FormName, Network
from graft.serving.engines.export import export_version, prove
from graft.serving.engines.forms import FORMS
from graft.serving.engines.golden import GoldenImages, prepare
from graft.serving.predictor import Predictor
from graft.store import Store
from graft.store.objects import sha256_file
from models import encoded, picture


@pytest.fixture(scope="module")
def weights(
    tiny_store: Store, version: ModelVersion, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The version's weights as they are exported, before any proof."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    FORMS["safetensors"].write(load_model(tiny_store, version), Network.of(version), path)
    return path


def tier(form: FormName) -> object:
    """Return a form as a case, slow where torch has to trace the network."""
    return pytest.param(form, marks=() if form == "safetensors" else pytest.mark.slow)


@pytest.mark.parametrize("form", [tier(form) for form in FORMS])
def test_an_export_answers_as_the_version_does_for_batches_of_any_size(
    tiny_store: Store, version: ModelVersion, tmp_path: Path, form: FormName
) -> None:
    out = tmp_path / "model"
    described = export_version(tiny_store, version, form, out)
    assert Description.model_validate_json((tmp_path / "model.json").read_bytes()) == described
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.json"]
    assert described.sha256 == sha256_file(out)
    assert described.proof.golden_images == 3
    logits = FORMS[form].read(out, described)
    predictor = Predictor.load(tiny_store, version)
    for count in (1, 5):
        files = [encoded(picture(10 + seed)) for seed in range(count)]
        images = [prepare(data, described.preprocessing) for data in files]
        np.testing.assert_allclose(
            logits(np.stack(images)), predictor.logits(images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "change",
    [{"resize": 64}, {"interpolation": "bicubic"}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}],
    ids=["other resize", "other filter", "no normalisation"],
)
def test_an_export_with_other_preprocessing_is_refused(
    tiny_store: Store, version: ModelVersion, weights: Path, change: dict[str, object]
) -> None:
    golden = GoldenImages.read(tiny_store, version)
    network = Network.of(version)
    prove(weights, network, "safetensors", golden)  # the others differ by `change` alone
    wrong = network.preprocessing.model_copy(update=change)
    with pytest.raises(ServingError, match="does not give its recorded outputs"):
        prove(weights, network.model_copy(update={"preprocessing": wrong}), "safetensors", golden)


def test_an_export_with_colours_in_another_order_is_refused(
    tiny_store: Store, version: ModelVersion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "graft.serving.engines.golden.prepare",
        lambda data, contract: prepare(data, contract)[..., ::-1],
    )
    with pytest.raises(ServingError, match="so nothing is written: golden image"):
        export_version(tiny_store, version, "safetensors", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_overwritten(
    tiny_store: Store, version: ModelVersion, tmp_path: Path
) -> None:
    (tmp_path / "model.json").write_text("mine")
    with pytest.raises(InputError, match=r"model\.json exists"):
        export_version(tiny_store, version, "safetensors", tmp_path / "model")
    with pytest.raises(InputError, match="is no folder"):
        export_version(tiny_store, version, "safetensors", tmp_path / "no" / "model")


def test_the_command_says_what_it_wrote(
    tiny_store: Store, version: ModelVersion, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    arguments = ("--format", "safetensors", "--out", out, "--store", tiny_store.uri, "--json")
    done = main("models", "export", version.ref, *arguments)
    assert json.loads(done.stdout)["proof"]["golden_images"] == 3
    assert out.exists()


@pytest.mark.slow
def test_the_example_of_the_guide_gives_the_answer_of_the_version(
    tiny_store: Store, version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).parents[3] / "docs" / "exports.md"
    (code,) = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    export_version(tiny_store, version, "onnx", Path("ants-bees.onnx"))
    Path("new.jpg").write_bytes(data := encoded(picture(5)))
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    predictor = Predictor.load(tiny_store, version)
    expected = predictor.logits([predictor.prepare(data)])
    np.testing.assert_allclose(names["logits"], expected, rtol=1e-4, atol=1e-5)
