"""What happens to a spec before it is sent: files go into the store, names are looked up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from graft.errors import InputError, NotFoundError, StoreError
from graft.registry import get_model
from graft.spec import (
    Demo,
    Evaluation,
    Finetune,
    Job,
    ListSearch,
    Sweep,
    TransferReport,
    parse_job,
)
from graft.store import Store, payload_name, sha256_file

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def local_weights(spec: Job) -> list[Path]:
    """Return the weights files of this machine that a spec names.

    Raises:
        InputError: one of them is not there.
    """
    found: list[Path] = []

    def collect(path: Path) -> str:
        found.append(path)
        return str(path)

    _each_file(spec, collect)
    return list(dict.fromkeys(found))


def stored_weights(store: Store, spec: Job, send: bool = True) -> Job:
    """Return the spec with its weights files of this machine named as they are in the store.

    `send`: put them there.
    """

    def stored(path: Path) -> str:
        digest = sha256_file(path)
        folder = f"weights/{digest}"
        if send:
            store.put(folder, path.name, path)
        return f"{store.uri}/{folder}/{payload_name(path.name, digest)}"

    return _each_file(spec, stored)


def check_names(store: Store, spec: Job) -> None:
    """Find out whether the store has the dataset version, and the model, that a spec names.

    Raises:
        NotFoundError: it has not.
        StoreError: it cannot be asked from here.
    """
    from graft.data.manifest import open_dataset

    if isinstance(spec, Demo):
        return  # it makes its own
    if isinstance(spec, Evaluation):
        get_model(store, spec.model)
    dataset = (spec.base if isinstance(spec, (Sweep, TransferReport)) else spec).dataset
    if dataset:
        open_dataset(store, dataset.name, dataset.version)


def reachable(store: Store) -> StoreError | None:
    """Return why a store cannot be used from here, None where it can."""
    try:
        store.children("datasets/")
    except NotFoundError:
        return None
    except StoreError as error:
        return error
    return None


def _each_file(spec: Job, change: Callable[[Path], str]) -> Job:
    """Return the spec with each local weights file replaced."""
    if isinstance(spec, (Demo, Evaluation)):
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
        backbones += [one for one in choices if isinstance(one, dict) and "weights" in one]
        if values := space.get("backbone.weights", {}).get("choice"):
            values[:] = [_changed(value, change) for value in values]
        if isinstance(spec.search, ListSearch):
            for trial in document["search"]["trials"]:
                backbones += [trial["backbone"]] if "weights" in trial.get("backbone", ()) else []
                if "backbone.weights" in trial:
                    trial["backbone.weights"] = _changed(trial["backbone.weights"], change)
    for backbone in backbones:
        backbone["weights"] = _changed(backbone["weights"], change)
    return parse_job(document, "the spec", None)


def _changed(source: str, change: Callable[[Path], str]) -> str:
    path = Path(source).expanduser()
    if "://" in source:
        return source
    if path.is_file():
        return change(path)
    if "/" in source or path.suffix in WEIGHTS_SUFFIXES:
        raise InputError(
            f"backbone.weights: no file {source} on this machine; expected `imagenet`, `none`, "
            "a torchvision enum, a path, an s3:// URI or model://NAME@VERSION"
        )
    return source
