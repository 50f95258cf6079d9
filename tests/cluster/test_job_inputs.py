"""What is done with a spec before it is sent."""

from pathlib import Path

import pytest

from colours import colour_spec, draw_colours, transfer_document
from graft.cluster.job_id import LONGEST_ID, new_id
from graft.cluster.job_inputs import (
    check_names,
    local_weights,
    put_weights,
    store_problem,
    stored_weights,
)
from graft.cluster.profile import Profile
from graft.cluster.rayjob_manifest import Submission, rayjob
from graft.data.importing import import_dataset
from graft.errors import InputError, NotFoundError
from graft.spec import Import, Prediction, Sweep, TransferReport, parse_job
from graft.store import Store, sha256_file
from models import register_model


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_weights_of_this_machine_go_into_the_store_by_their_hash(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"tensors")
    spec = colour_spec(backbone__weights=str(file))
    assert local_weights(spec) == [file]
    sent = stored_weights(store, spec)
    assert store.children("weights/") == []
    put_weights(store, [file])
    digest = sha256_file(file)
    assert sent.backbone.weights == f"{store.uri}/weights/{digest}/mine-{digest}.safetensors"
    assert Path(sent.backbone.weights).read_bytes() == b"tensors"
    assert stored_weights(store, spec) == sent


def test_a_sweeps_weights_are_found_wherever_they_stand(store: Store, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for file in files:
        file.write_bytes(file.name.encode())
    base = colour_spec(backbone__weights=str(files[0])).model_dump(mode="json", by_alias=True)
    document = {
        "kind": "sweep",
        "name": "s",
        "base": base | {"register": None},
        "space": {"backbone.weights": {"choice": ["none", str(files[1]), str(files[2])]}},
        "search": {"kind": "grid"},
    }
    sweep = parse_job(document, "test", Sweep)
    assert sorted(local_weights(sweep)) == files
    text = stored_weights(store, sweep).model_dump_json(by_alias=True)
    assert [str(file) in text for file in files] == [False, False, False]
    assert all(f"{store.uri}/weights/{sha256_file(file)}/" in text for file in files)
    assert '"none"' in text


def test_the_weights_of_listed_trials_are_found(store: Store, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    trials = [{"backbone.weights": str(files[0])}, {"backbone": {"weights": str(files[1])}}]
    base = colour_spec().model_dump(mode="json", by_alias=True) | {"register": None}
    document = {"kind": "sweep", "name": "s", "base": base}
    sweep = parse_job(document | {"search": {"kind": "list", "trials": trials}}, "test", Sweep)
    assert local_weights(sweep) == [*files]
    text = stored_weights(store, sweep).model_dump_json(by_alias=True)
    assert all(f"{store.uri}/weights/{sha256_file(file)}/" in text for file in files)


def test_the_weights_of_a_reports_other_backbones_are_found(store: Store, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    base = colour_spec(backbone__weights=str(files[0]), augment={"kind": "none"})
    other = {"arch": "resnet18", "weights": str(files[1])}
    document = transfer_document(base, epochs=1, other_backbones=[other])
    report = parse_job(document, "test", TransferReport)
    assert local_weights(report) == files
    text = stored_weights(store, report).model_dump_json(by_alias=True)
    assert all(f"{store.uri}/weights/{sha256_file(file)}/" in text for file in files)


@pytest.mark.parametrize("weights", ["none", "imagenet", "model://a@1", "s3://bucket/w.pth"])
def test_other_weights_stay_as_they_are(store: Store, weights: str) -> None:
    spec = colour_spec(backbone__weights=weights)
    assert local_weights(spec) == []
    assert stored_weights(store, spec) == spec


def test_a_weights_file_that_is_not_here_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*mine.pth on this machine"):
        local_weights(colour_spec(backbone__weights=str(tmp_path / "mine.pth")))


def test_a_dataset_that_the_store_has_not_is_known_at_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no dataset 'colours'"):
        check_names(store, colour_spec())
    import_dataset(store, str(draw_colours(tmp_path / "images")), "colours", test_fraction=0)
    check_names(store, colour_spec())


@pytest.mark.parametrize("key", ["source", "out"])
def test_a_prediction_on_pods_names_no_path_of_this_machine(s3_store_uri: str, key: str) -> None:
    store = Store.open(s3_store_uri)
    register_model(store)
    document = {"kind": "prediction", "model": "ants-bees", "source": "s3://bucket/archive"}
    check_names(store, Prediction.model_validate(document))
    with pytest.raises(InputError, match=f"{key}: 'photos' is a path of one machine"):
        check_names(store, Prediction.model_validate(document | {key: "photos"}))


@pytest.mark.parametrize("key", ["source", "labels"])
def test_an_import_on_pods_names_no_path_of_this_machine(s3_store_uri: str, key: str) -> None:
    store = Store.open(s3_store_uri)
    document = {"kind": "import", "name": "x", "source": "s3://bucket/photos"}
    check_names(store, Import.model_validate(document))
    with pytest.raises(InputError, match=f"{key}: 'photos' is a path of one machine"):
        check_names(store, Import.model_validate(document | {key: "photos"}))
    with pytest.raises(NotFoundError, match="no dataset 'x'"):
        check_names(store, Import.model_validate(document | {"add_to": "latest"}))


@pytest.mark.parametrize("name", ["ants-bees", "7.days_of", "x" * 60])
def test_a_new_id_is_a_name_for_kubernetes_and_new(name: str) -> None:
    profile = Profile.model_validate(
        {
            "image": "graft:1",
            "store": "s3://bucket",
            "service_account": "graft",
            "classes": {"cpu": {}},
            "default_class": "cpu",
        }
    )
    first, second = new_id(name), new_id(name)
    assert first != second
    assert len(first) <= LONGEST_ID
    assert rayjob(Submission(first, colour_spec()), profile)["metadata"]["name"] == first


def test_a_volume_that_is_not_mounted_here_is_no_empty_store(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "volume"))
    assert store_problem(store) is None  # a directory of this machine, made by the first write
    problem = store_problem(store, is_volume=True)
    assert str(problem) == f"the cluster's volume {store.uri} is not mounted on this machine"
    (tmp_path / "volume").mkdir()
    assert store_problem(store, is_volume=True) is None
