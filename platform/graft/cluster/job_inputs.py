"""What is done with a spec before it is sent: files are put into the store, names looked up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from graft.errors import InputError, NotFoundError, StoreError
from graft.registry import get_model
from graft.spec import (
    Demo,
    Evaluation,
    Finetune,
    Import,
    Job,
    ListSearch,
    Prediction,
    Sweep,
    TransferReport,
    parse_job,
)
from graft.spec.prediction import DATASET_SCHEME
from graft.store import Store, payload_name, sha256_file

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class JobInputs:
    """What a job needs in the store before it begins."""

    store: Store
    problem: StoreError | None
    """Why the store cannot be used from here; None where it can."""
    spec: Job
    """As it is sent: it names no file of this machine."""
    files: Sequence[Path]
    """The weights files of this machine that go into the store."""

    @classmethod
    def of(cls, store: Store, spec: Job, files: Sequence[Path], is_volume: bool = False) -> Self:
        """Look at the store; `spec` is as a person wrote it, and names `files`.

        `is_volume`: the store is a cluster's, and maybe not mounted here.

        Raises:
            InputError: there are files, and the store cannot be used from here.
        """
        problem = store_problem(store, is_volume)
        if problem and files:
            raise InputError(
                f"{files[0]} has to be copied into the store, which cannot be used from here: "
                f"{problem}"
            )
        return cls(store, problem, stored_weights(store, spec) if files else spec, files)


def local_weights(spec: Job) -> list[Path]:
    """Return the weights files of this machine that a spec names.

    Raises:
        InputError: one of them does not exist.
    """
    files: list[Path] = []

    def collect(path: Path) -> str:
        files.append(path)
        return str(path)

    _replace_files(spec, collect)
    return list(dict.fromkeys(files))


def stored_weights(store: Store, spec: Job) -> Job:
    """Return the spec with the URIs that its weights files of this machine get in the store."""

    def uri(path: Path) -> str:
        digest = sha256_file(path)
        return f"{store.uri}/weights/{digest}/{payload_name(path.name, digest)}"

    return _replace_files(spec, uri)


def put_weights(store: Store, files: Sequence[Path]) -> None:
    """Copy weights files of this machine into the store."""
    for path in files:
        folder = f"weights/{sha256_file(path)}"
        store.rely_on([f"{folder}/"])  # the spec names the file as it is called there
        store.put(folder, path.name, path)


def check_names(store: Store, spec: Job) -> None:
    """Find out whether the store has the dataset version and the model that a spec names.

    Raises:
        NotFoundError: it has not.
        StoreError: the store cannot be used from here.
    """
    from graft.data.manifest import LATEST, open_dataset

    if isinstance(spec, Demo):
        return  # it makes a dataset itself
    if isinstance(spec, (Evaluation, Prediction)):
        get_model(store, spec.model)
    if isinstance(spec, Import):
        _check_places(store, source=spec.source, labels=spec.labels)
        if spec.add_to is not None:
            open_dataset(store, spec.name, spec.add_to)
        return
    if isinstance(spec, Prediction):
        _check_places(store, source=spec.source, out=spec.out)
        if spec.source.startswith(DATASET_SCHEME):
            name, _, version = spec.source.removeprefix(DATASET_SCHEME).partition("@")
            open_dataset(store, name, version or LATEST)
        return
    dataset = (spec.base if isinstance(spec, (Sweep, TransferReport)) else spec).dataset
    if dataset:
        open_dataset(store, dataset.name, dataset.version)


def _check_places(store: Store, **places: str | None) -> None:
    """Refuse paths of this machine, by the keys that name them, where pods have only a bucket."""
    if store.is_directory:
        return
    for key, place in places.items():
        if place is not None and "://" not in place:
            raise InputError(
                f"{key}: '{place}' is a path of one machine, and the job runs on others; expected "
                "an s3:// URI"
            )


def store_problem(store: Store, is_volume: bool = False) -> StoreError | None:
    """Return why a store cannot be used from here, None where it can.

    `is_volume`: it is one of a cluster, and not a directory of this machine that may yet be made.
    """
    if is_volume and not Path(store.uri).is_dir():
        return StoreError(f"the cluster's volume {store.uri} is not mounted on this machine")
    try:
        store.children("datasets/")
    except NotFoundError:
        return None
    except StoreError as error:
        return error
    return None


def _replace_files(spec: Job, replacement: Callable[[Path], str]) -> Job:
    """Return the spec with `replacement` in the place of each weights file of this machine."""
    if isinstance(spec, (Demo, Evaluation, Import, Prediction)):
        return spec
    document = spec.model_dump(mode="json", by_alias=True)
    backbones: list[dict[str, Any]] = []
    if isinstance(spec, Finetune):
        backbones.append(document["backbone"])
    elif isinstance(spec, TransferReport):
        backbones += [document["base"]["backbone"], *document["other_backbones"]]
    else:
        backbones.append(document["base"]["backbone"])
        space = document["space"]
        choices = space.get("backbone", {}).get("choice", ())
        backbones += [
            choice for choice in choices if isinstance(choice, dict) and "weights" in choice
        ]
        if values := space.get("backbone.weights", {}).get("choice"):
            values[:] = [_replace_file(value, replacement) for value in values]
        if isinstance(spec.search, ListSearch):
            for trial in document["search"]["trials"]:
                backbones += [trial["backbone"]] if "weights" in trial.get("backbone", ()) else []
                if "backbone.weights" in trial:
                    trial["backbone.weights"] = _replace_file(
                        trial["backbone.weights"], replacement
                    )
    for backbone in backbones:
        backbone["weights"] = _replace_file(backbone["weights"], replacement)
    return parse_job(document, "the spec", None)


def _replace_file(weights: str, replacement: Callable[[Path], str]) -> str:
    path = Path(weights).expanduser()
    if "://" in weights:
        return weights
    if path.is_file():
        return replacement(path)
    if "/" in weights or path.suffix in WEIGHTS_SUFFIXES:
        raise InputError(
            f"backbone.weights: no file {weights} on this machine; expected `imagenet`, `none`, "
            "a torchvision enum, a path, an s3:// URI or model://NAME@VERSION"
        )
    return weights
