"""Which images may calibrate, what refuses a calibration, and what ends a training that asks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import pytest
import ray

from decisions.populations import drawn, population
from graft.cli.commands.decisions import calibrate_registered
from graft.data.manifest import open_dataset
from graft.decisions.records import list_decisions
from graft.errors import GraftError, NotShown, RunFailed, StoreLost
from graft.registry import ModelVersion, get_model
from graft.report.decision import calibrate as module
from graft.report.decision.held_out import untrained as untrained_images
from graft.report.decision.ray_task import calibrate_on_ray
from graft.report.evaluation.evaluate import evaluate, predictions_of
from graft.report.evaluation.predictions import Predictions
from graft.spec import Register, Scaling
from graft.store import Store
from report.decision.test_decide import document, model, refused, spoilt


def predicted(store: Store, version: ModelVersion, dataset: str, split: str) -> Predictions:
    data = open_dataset(store, dataset)
    report = evaluate(store, version, data, split, Scaling(), lambda done, total: None)
    return predictions_of(store, report)


def made_up(count: int, labels: int = 3) -> Predictions:
    some = drawn(population(labels, 2_000, apart=1), count, np.random.default_rng(0))
    digests = tuple(sha256(str(number).encode()).hexdigest() for number in range(count))
    classes = tuple("abc"[:labels])
    return Predictions("m@1", "d@1", "val", classes, digests, digests, some.labels, some.logits)


@pytest.mark.slow
def test_images_that_trained_the_version_or_its_parent_calibrate_nothing(store: Store) -> None:
    version = model(store)
    trained = predicted(store, version, "colours", "train")
    kept, left_out = untrained_images(store, version, trained)
    assert kept.images == ()
    assert "72 of 72 images trained colours@1" in left_out[0]
    chose = predicted(store, version, "colours", "val")
    assert untrained_images(store, version, chose)[0].images == chose.images
    lineage = version.lineage.model_copy(
        update={
            "weights": "model://colours@1",
            "dataset": "untested",
            "dataset_version": open_dataset(store, "untested").manifest.version,
            "spec": {},
        }
    )
    child = version.model_copy(update={"name": "child", "lineage": lineage})
    kept, left_out = untrained_images(store, child, trained)
    assert kept.images == ()
    gone = child.model_copy(
        update={"lineage": lineage.model_copy(update={"weights": "model://nobody@1"})}
    )
    kept, left_out = untrained_images(store, gone, trained)
    assert kept.images == ()
    assert "all images" in left_out[0]


@pytest.mark.slow
def test_a_version_is_not_calibrated_by_what_trained_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(store, 4.0, "untested")
    evaluated = predicted(store, model(store), "untested", "val")
    trained = set(evaluated.images[::3])

    def roles(*_: object) -> list[object]:
        from graft.report.seen_images import Seen

        return [Seen("parent@1", "d@1", dict.fromkeys(trained, "trained"))]

    monkeypatch.setattr("graft.report.decision.held_out.seen_by", roles)
    made = document(store, "calibrate", "colours", "--dataset", "untested")
    assert made["fitted_on"] == len(evaluated.images) - len(trained)
    assert made["left_out"] == [
        f"{len(trained)} of {len(evaluated.images)} images trained parent@1 (images of d@1)"
    ]
    trained |= set(evaluated.images)
    said = refused(store, "calibrate", "colours", "--dataset", "untested")
    assert "has 0 images in split 'val' that may calibrate colours@1" in said
    assert "images trained parent@1" in said


def test_images_of_one_fold_calibrate_nothing(
    untrained: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = model(untrained)
    monkeypatch.setattr(module, "folds_of", lambda images: np.zeros(len(images), np.int64))
    with pytest.raises(NotShown, match="too few to leave some out in turn"):
        module._fit(version, made_up(100), ())


def test_a_calibration_is_refused_by_the_images_that_gave_it(
    untrained: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by those that judge it, which would then judge what they chose."""
    version, some = model(untrained), made_up(300)
    calibration, crossed = module._fit(version, some, ())
    assert calibration.method != "none"
    assert len(crossed.labels) == 300
    assert not crossed.is_worse
    wrong = np.full((300, 3), 0.01)
    wrong[np.arange(300), (some.labels + 1) % 3] = 0.98
    monkeypatch.setattr(module, "cross_fitted", lambda *_: wrong)
    with pytest.raises(NotShown, match="that it does not come from less likely"):
        module._fit(version, some, ())


@contextmanager
def no_ray() -> Iterator[None]:
    yield


@pytest.mark.parametrize("error", [NotShown("too few"), StoreLost("no answer"), RunFailed("died")])
def test_only_what_is_not_shown_leaves_a_version_as_it_is(
    untrained: Store,
    error: GraftError,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("graft.cluster.local_ray.ray_session", no_ray)
    monkeypatch.setattr("graft.report.decision.ray_task.calibrate_on_ray", fails)
    register = Register(model="colours", calibrate=True)
    words = (untrained, register, "colours@1", Scaling())
    if isinstance(error, NotShown):
        calibrate_registered(*words)
        assert "not calibrated: too few" in capsys.readouterr().err
    else:
        with pytest.raises(type(error)):
            calibrate_registered(*words)
    assert list_decisions(untrained, model(untrained)) == []


def test_a_worker_that_dies_is_a_failure_of_ours(
    untrained: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Task:
        def remote(self) -> None:
            pass

    def killed(_: object) -> None:
        raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low")

    monkeypatch.setattr(ray, "remote", lambda **_: lambda run: Task())
    monkeypatch.setattr(ray, "get", killed)
    version = get_model(untrained, "colours@1")
    with pytest.raises(RunFailed, match="colours@1 is registered, but") as failure:
        calibrate_on_ray(untrained, version, Scaling())
    assert "`graft models calibrate colours@1` tries it again" in str(failure.value)
