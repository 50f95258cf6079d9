"""A prediction from its list of inputs to what came of it, parts answered for in this process."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import softmax

import commands
from data.source_files import hugging_face, tar
from graft.backbones.trunk import load_model
from graft.cluster.job_progress import job_progress
from graft.decisions.calibration import NONE, Calibration
from graft.decisions.records import DecisionDraft, record_decision
from graft.decisions.rules import ClassThreshold, Sets, Thresholds, answer
from graft.errors import InputError, NotFoundError, RunFailed
from graft.parts.pace import Pace
from graft.prediction.records import (
    ANSWERS,
    BROKEN_FILES,
    CHANGES,
    Finished,
    is_begun,
    list_predictions,
    open_out,
    parts_done,
    read_finished,
    read_spec,
)
from graft.prediction.run_prediction import create_prediction, run_prediction
from graft.registry import get_model
from graft.serving.predictor import Predictor
from graft.spec import Prediction
from graft.store import Store
from models import encoded, picture, register_model
from prediction.conftest import IMAGES, Here


def spec(source: Path | str, **changes: Any) -> Prediction:
    document = {"kind": "prediction", "model": "ants-bees", "source": str(source)}
    return Prediction.model_validate(document | {"part_images": 3} | changes)


def run(store: Store, asked: Prediction, here: Here | None = None, **more: Any) -> Finished:
    prediction = create_prediction(store, asked)
    return run_prediction(store, prediction, here or Here(store), lambda pace: None, **more)


def rows(finished: Finished) -> list[dict[str, Any]]:
    """Return all answers, in order."""
    out, found = Store.open(finished.out), []
    for ref in finished.parts:
        data = out.get(ANSWERS, ref)
        if ref.name.endswith(".jsonl"):
            found += [json.loads(line) for line in data.decode().split("\n")[:-1]]
        else:
            found += pq.read_table(io.BytesIO(data)).to_pylist()
    return found


def test_answers_are_those_of_the_predictor(store: Store, archive: Path) -> None:
    finished = run(store, spec(archive, logits=True, top_k=2))
    assert (finished.images, finished.unusable) == (IMAGES, 2)
    predictor = Predictor.load(store, get_model(store, "ants-bees"))
    answered = rows(finished)
    assert [row["path"] for row in answered] == sorted(row["path"] for row in answered)
    for row in answered:
        data = (archive / row["path"]).read_bytes()
        logits = predictor.logits([predictor.prepare(data)])[0]
        np.testing.assert_allclose(row["logits"], logits, rtol=1e-3, atol=1e-4)
        p = softmax(np.array(row["logits"], np.float64))
        assert row["probabilities"] == pytest.approx(np.sort(p)[::-1][:2].tolist(), rel=1e-5)
        assert row["decision"] == row["classes"][0]
    assert sum(finished.decisions.values()) == IMAGES


def test_images_in_larger_files_are_answered_for_alike(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    files = [path for path in archive.rglob("*.jpg") if path.name != "cut.jpg"]
    images = [path.read_bytes() for path in files]
    hugging_face(tmp_path / "p" / "x.parquet", [None, *images], [0] * (IMAGES + 1))
    tar(tmp_path / "t" / "x.tar", {path.name: path.read_bytes() for path in archive.rglob("*.jpg")})
    expected = {row["sha256"]: row["probabilities"] for row in rows(run(store, spec(archive)))}
    for source in ("p", "t"):
        finished = run(store, spec(tmp_path / source))
        assert (finished.images, finished.unusable) == (IMAGES, 1)
        answered = {row["sha256"]: row["probabilities"] for row in rows(finished)}
        assert answered.keys() == expected.keys()
        for digest, probabilities in answered.items():
            assert probabilities == pytest.approx(expected[digest], abs=1e-5)


def test_files_that_are_no_image_have_a_table_of_their_own(store: Store, archive: Path) -> None:
    finished = run(store, spec(archive))
    assert finished.broken is not None
    data = Store.open(finished.out).get(BROKEN_FILES, finished.broken)
    broken = pq.read_table(io.BytesIO(data)).to_pylist()
    assert [row["path"] for row in broken] == ["0/cut.jpg", "readme.txt"]
    assert all(row["reason"] for row in broken)
    assert [key for key, _ in Store.open(finished.out).scan(f"{BROKEN_FILES}/")] == [
        f"{BROKEN_FILES}/{finished.broken.name}"
    ]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_prediction_that_is_killed_twice_gives_the_same_rows_once(
    store: Store, archive: Path, form: str
) -> None:
    whole = run(store, spec(archive, format=form))
    prediction = create_prediction(store, spec(archive, format=form))
    parts = 0
    for dies_at in (1, 2):
        here = Here(store, dies_at)
        with pytest.raises(KeyboardInterrupt):
            run_prediction(store, prediction, here, lambda pace: None)
        parts += here.predicted
    last = Here(store)
    finished = run_prediction(store, prediction, last, lambda pace: None)
    assert parts + last.predicted == 4 + 2  # each kill costs the part that was not committed
    assert rows(finished) == rows(whole)
    listed = {key for key, _ in Store.open(finished.out).scan(f"{ANSWERS}/")}
    assert listed == {f"{ANSWERS}/{ref.name}" for ref in finished.parts}


def test_progress_counts_what_was_done_before(store: Store, archive: Path) -> None:
    prediction = create_prediction(store, spec(archive))
    paces: list[Pace] = []
    with pytest.raises(KeyboardInterrupt):
        run_prediction(store, prediction, Here(store, 2), lambda pace: None)
    run_prediction(store, prediction, Here(store), paces.append)
    assert [(pace.done, pace.of) for pace in paces] == [(n, IMAGES + 2) for n in (6, 9, 12)]
    assert paces[0].files_per_second is None
    assert paces[-1].seconds_left == 0


def test_a_finished_prediction_is_not_done_again(store: Store, archive: Path) -> None:
    finished = run(store, spec(archive))
    here = Here(store)
    assert run_prediction(store, finished.prediction, here, lambda pace: None) == finished
    assert here.predicted == 0


def test_an_attempt_that_was_overtaken_finishes_nothing(store: Store, archive: Path) -> None:
    prediction = create_prediction(store, spec(archive))

    def overtaken(*asked: Any) -> Any:
        run_prediction(store, prediction, Here(store), lambda pace: None, take_over=True)
        yield from Here(store)(*asked)

    with pytest.raises(RunFailed, match="overtaken"):
        run_prediction(store, prediction, overtaken, lambda pace: None)
    assert read_finished(store, prediction) is not None


def test_the_decision_is_that_of_the_beginning(store: Store, archive: Path) -> None:
    version = get_model(store, "ants-bees")
    own = tuple(ClassThreshold(name=name, threshold=0.999) for name in version.classes)
    soft = Calibration(method="temperature", scales=(0.2,))
    draft = DecisionDraft(model=version.ref, calibration=soft, rule=Thresholds(by_class=own))
    record_decision(store, version, draft, {})
    prediction = create_prediction(store, spec(archive, logits=True))
    record_decision(store, version, DecisionDraft(model=version.ref), {})
    finished = run_prediction(store, prediction, Here(store), lambda pace: None)
    assert finished.decision == 1
    assert finished.decisions == {"unknown": IMAGES}
    logits = np.array([row["logits"] for row in rows(finished)], np.float32)
    again = answer(logits, version.classes, soft, draft.rule)
    distances = [row["distance"] for row in rows(finished)]
    np.testing.assert_allclose(distances, again.distance, rtol=1e-5)


def test_sets(store: Store, archive: Path) -> None:
    version = get_model(store, "ants-bees")
    draft = DecisionDraft(model=version.ref, rule=Sets(threshold=0.0), calibration=NONE)
    record_decision(store, version, draft, {})
    for row in rows(run(store, spec(archive))):
        assert row["set"] == row["classes"]


def test_what_another_version_decides_otherwise(store: Store, archive: Path) -> None:
    first = run(store, spec(archive))
    register_model(store, run="run-2", seed=3)
    (archive / "0" / "0.jpg").unlink()
    (archive / "new.jpg").write_bytes(encoded(picture(99)))
    asked = spec(archive, model="ants-bees@2", against=first.prediction, format="jsonl")
    second = run(store, asked)
    compared = second.compared
    assert compared is not None
    assert (compared.images, compared.only_here, compared.only_there) == (IMAGES - 1, 1, 1)
    before = {row["sha256"]: row["decision"] for row in rows(first)}
    expected = [
        (row["path"], before[row["sha256"]], row["decision"])
        for row in rows(second)
        if row["sha256"] in before and before[row["sha256"]] != row["decision"]
    ]
    data = Store.open(second.out).get(CHANGES, compared.changes)
    changes = pq.read_table(io.BytesIO(data)).to_pylist()
    assert [(row["path"], row["before"], row["after"]) for row in changes] == expected
    assert compared.changed == len(expected)


def test_answers_elsewhere(store: Store, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    finished = run(store, spec(archive, out=str(out)))
    assert (out / "prediction.json").read_bytes() == store.read(
        f"predictions/{finished.prediction}/prediction.json"
    ).data
    with pytest.raises(InputError, match="has the answers of prediction"):
        create_prediction(store, spec(archive, out=str(out)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"not empty \(it has thesis.txt\)"):
        create_prediction(store, spec(archive, out=str(tmp_path / "full")))
    assert len(list(list_predictions(store))) == 1


def test_a_source_without_an_image(store: Store, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    prediction = create_prediction(store, spec(tmp_path / "texts"))
    with pytest.raises(InputError, match="none of 1 files is an image"):
        run_prediction(store, prediction, Here(store), lambda pace: None)
    assert read_finished(store, prediction) is None
    asked = read_spec(store, prediction)
    assert parts_done(open_out(store, asked, prediction)) == {0}


def test_what_is_not_there(store: Store, archive: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        create_prediction(store, spec(archive, model="nothing"))
    with pytest.raises(NotFoundError, match="no prediction 'none'"):
        create_prediction(store, spec(archive, against="none"))
    unfinished = create_prediction(store, spec(archive))
    with pytest.raises(InputError, match="is not finished"):
        create_prediction(store, spec(archive, against=unfinished))
    with pytest.raises(NotFoundError, match="no prediction 'none'"):
        run_prediction(store, "none", Here(store), lambda pace: None)


def test_how_far_a_job_is(store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.prediction.run_prediction.TELL_STORE_EVERY_S", 0.0)
    assert job_progress(store, "archive", "prediction") is None
    prediction = create_prediction(store, spec(archive), "archive")
    with pytest.raises(KeyboardInterrupt):
        run_prediction(store, prediction, Here(store, 2), lambda pace: None)
    said = job_progress(store, "archive", "prediction")
    assert said is not None
    assert re.fullmatch(r"6 of 12 files, [\d.,]+ files/s, .+ left", said)
    monkeypatch.undo()
    run_prediction(store, prediction, Here(store), lambda pace: None)
    assert str(job_progress(store, "archive", "prediction")).startswith("12 of 12 files")


def test_embeddings_are_what_the_head_is_given(store: Store, archive: Path) -> None:
    version = register_model(store, "small", arch="timm/test_resnet")
    asked = spec(archive, model="small", embedding=True, logits=True)
    answered, model = rows(run(store, asked)), load_model(store, version)
    last = model.network.get_submodule(model.stages.last)
    embedding = torch.tensor([row["embedding"] for row in answered])
    with torch.inference_mode():
        logits = last.eval()(embedding).numpy()
    np.testing.assert_allclose([row["logits"] for row in answered], logits, rtol=1e-3, atol=1e-4)
    of_a_map = rows(run(store, spec(archive, embedding=True)))
    assert {len(row["embedding"]) for row in of_a_map} == {512}
    with pytest.raises(ValueError, match="torch gives it"):
        spec(archive, embedding=True, engine="onnx")


def test_killed_between_its_two_last_markers(
    store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prediction = create_prediction(store, spec(archive, out="answers"))
    assert read_spec(store, prediction).out == str(tmp_path / "answers")
    finished = run_prediction(store, prediction, Here(store), lambda pace: None)
    store.delete(f"predictions/{prediction}/prediction.json")
    here = Here(store)
    assert run_prediction(store, prediction, here, lambda pace: None) == finished
    assert here.predicted == 0
    assert read_finished(store, prediction) == finished


def test_killed_while_its_files_are_listed(store: Store, archive: Path, tmp_path: Path) -> None:
    asked = spec(archive, out=str(tmp_path / "answers"))
    prediction = create_prediction(store, asked, "archive")
    store.delete("predictions/archive/begun.json")
    assert not is_begun(store, prediction)
    register_model(store, run="run-2", seed=3)  # the newest one; the recorded one holds
    create_prediction(store, asked, "archive")
    assert run_prediction(store, "archive", Here(store), lambda pace: None).model == "ants-bees@1"


def test_a_source_that_is_refused_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        create_prediction(store, spec(tmp_path / "none", out=str(tmp_path / "answers")))
    assert list(store.children("predictions/")) == []
    assert not (tmp_path / "answers").exists()


def test_what_it_is_compared_with_may_go(store: Store, archive: Path) -> None:
    first = run(store, spec(archive))
    prediction = create_prediction(store, spec(archive, against=first.prediction))
    for ref in first.parts:
        Store.open(first.out).delete(f"{ANSWERS}/{ref.name}")
    finished = run_prediction(store, prediction, Here(store), lambda pace: None)
    assert finished.compared is None
    assert "does not exist" in str(finished.not_compared)
    with pytest.raises(InputError, match="4 of its 4 files of answers are no longer in"):
        create_prediction(store, spec(archive, against=first.prediction))


def test_answers_in_a_folder_that_others_do_not_see(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    prediction = create_prediction(store, spec(archive, out=str(tmp_path / "answers")))

    def elsewhere(*asked: Any) -> Any:
        for done in Here(store)(*asked):
            (tmp_path / "answers" / "part-000001.json").unlink(missing_ok=True)
            yield done

    with pytest.raises(InputError, match=r"lacks 1 of 4 parts .*give --out an s3:// URI"):
        run_prediction(store, prediction, elsewhere, lambda pace: None)


def test_names_that_json_lines_do_not_break_at(store: Store, archive: Path) -> None:
    (archive / "0" / "0.jpg").rename(archive / "0" / "a\u2028b.jpg")
    first = run(store, spec(archive, format="jsonl"))
    second = run(store, spec(archive, format="jsonl", against=first.prediction))
    assert second.compared is not None
    assert (second.compared.images, second.compared.changed) == (IMAGES, 0)


def test_resume_takes_no_options(store: Store, archive: Path) -> None:
    prediction = create_prediction(store, spec(archive))
    words = ("predict-batch", "--resume", prediction, "--top-k", "2", "--store", store.uri)
    done = commands.main(*words)
    assert done.returncode == 2
    assert "goes on with a prediction as it was recorded" in done.stderr


def test_a_store_that_is_copied_has_its_answers_with_it(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    finished = run(store, spec(archive))
    copy = Store.open(str(shutil.copytree(store.uri.removeprefix("file://"), tmp_path / "copy")))
    there = read_finished(copy, finished.prediction)
    assert there is not None
    assert there.out.startswith(copy.uri)
    assert rows(there) == rows(finished)
