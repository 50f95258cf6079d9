"""Backbone weights: found, kept in the store by their SHA-256, and fitted to a network.

Where they come from (`backbone.weights`) matters once, when a run is prepared; the
workers read them from the store.
"""

import contextlib
import http.client
import io
import re
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
import torchvision
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from graft.backbones.fit import fit
from graft.backbones.model import TransferModel
from graft.backbones.network import published_preprocess
from graft.backbones.timm import PREFIX, timm_file, timm_preprocess, timm_weights
from graft.backbones.trunk import version_state
from graft.errors import ObjectExists, ObjectNotFound, SpecError, WeightsError
from graft.registry import ModelVersion, get_model
from graft.spec import Backbone, Preprocess, nearest
from graft.store import ObjectRef, Store, sha256

DOWNLOAD_TIMEOUT_S = 10
MODEL_SCHEME = "model://"


class WeightsRecord(BaseModel):
    """The marker ``weights/<sha256>/weights.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A torchvision enum, timm/NAME.TAG/FILE, or the file's name."""
    file: ObjectRef


@dataclass(frozen=True)
class Weights:
    """Resolved weights: `backbone.weights` with nothing left open."""

    source: str
    """`none`, a torchvision enum, timm's NAME.TAG, a path or URI, or `model://NAME@<number>`."""
    sha256: str | None
    """Of the file, which is in the store by now; None for `none` and for models."""
    model: ModelVersion | None
    """The model version, where the weights are one."""
    preprocess: Preprocess
    """What the weights were trained with; ImageNet's usual where that is not known."""


def resolve_weights(store: Store, backbone: Backbone) -> Weights:
    """Find the weights that a spec asks for and put their file into the store.

    Raises:
        WeightsError: not to be had, not the promised file, or no tensors in it.
        NotFoundError: no such model version.
    """
    source = backbone.weights
    if source == "none":
        return Weights(source, None, None, Preprocess())
    if source.startswith(MODEL_SCHEME):
        version = get_model(store, source.removeprefix(MODEL_SCHEME))
        if version.arch != backbone.arch:
            raise WeightsError(
                f"backbone.weights: {version.ref} is a {version.arch}, "
                f"backbone.arch asks for {backbone.arch}"
            )
        inherited = Preprocess(**version.contract.model_dump(exclude={"max_side"}))
        return Weights(f"{MODEL_SCHEME}{version.ref}", None, version, inherited)
    if backbone.weights_sha256 and store.exists(f"weights/{backbone.weights_sha256}/weights.json"):
        return Weights(source, backbone.weights_sha256, None, Preprocess())
    preprocess = Preprocess()
    if backbone.arch.startswith(PREFIX):
        source, digest, preprocess = _timm_weights(store, backbone.arch, source)
    elif source == "imagenet" or _is_enum(source):
        source, digest, preprocess = _torchvision_weights(store, backbone.arch, source)
    else:
        digest = _keep(store, _read(source), PurePosixPath(source).name)
    if backbone.weights_sha256 not in (None, digest):
        raise WeightsError(
            f"backbone.weights: {source} has SHA-256 {digest}, "
            f"backbone.weights_sha256 asks for {backbone.weights_sha256}"
        )
    return Weights(source, digest, None, preprocess)


def load_weights(store: Store, weights: Weights, model: TransferModel, keep_head: bool) -> None:
    """Load resolved weights into a model; its head keeps its random ones unless `keep_head`.

    Raises:
        WeightsError: names or shapes differ, other than those of a replaced head; all are listed.
    """
    if weights.model:
        state = version_state(store, weights.model)
    elif weights.sha256:
        folder = f"weights/{weights.sha256}"
        record = WeightsRecord.model_validate_json(store.read(f"{folder}/weights.json").data)
        state = _parse(store.get(folder, record.file), record.source)
    else:
        return
    fit(model, state, keep_head, weights.source)


def load_file(source: str, model: TransferModel) -> None:
    """Load a weights file, a path or s3:// URI, into a model; its head keeps its random ones.

    Raises:
        WeightsError: no such file, no tensors in it, or they do not fit.
    """
    fit(model, _parse(_read(source), source), False, source)


def _read(source: str) -> bytes:
    try:
        if source.startswith("s3://"):
            folder, _, name = source.rpartition("/")
            return Store.open(folder).read(name).data
        return Path(source).expanduser().read_bytes()
    except (ObjectNotFound, FileNotFoundError) as error:
        raise WeightsError(
            f"backbone.weights: no file {source}; expected `imagenet`, `none`, a torchvision "
            "enum, timm's NAME.TAG, a path, an s3:// URI or model://NAME@VERSION"
        ) from error
    except OSError as error:
        raise WeightsError(f"backbone.weights: cannot read {source}: {error.strerror}") from error


def _keep(store: Store, data: bytes, source: str) -> str:
    """Put a weights file into the store, once it is known to hold tensors."""
    _parse(data, source)
    digest = sha256(data)
    folder = f"weights/{digest}"
    suffix = PurePosixPath(source).suffix or ".pth"
    if not store.exists(f"{folder}/weights.json"):
        record = WeightsRecord(source=source, file=store.put(folder, f"weights{suffix}", data))
        with contextlib.suppress(ObjectExists):
            store.create(f"{folder}/weights.json", record.model_dump_json(indent=1).encode())
    return digest


def _parse(data: bytes, source: str) -> dict[str, Tensor]:
    """Read tensors, and nothing but tensors, from a .safetensors or .pth file."""
    if source.endswith(".safetensors"):
        try:
            state = load_safetensors(data)
        except SafetensorError as error:
            raise WeightsError(f"{source} is no .safetensors file, or damaged: {error}") from error
    else:
        try:
            with warnings.catch_warnings():  # torch's own, about details of the file
                warnings.simplefilter("ignore")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever unpickling runs into in bytes that are no weights
            # torch's message advises to load it all the same.
            code = re.search(r"GLOBAL (\S+)", str(error))
            raise WeightsError(
                f"{source} is more than plain tensors ({code[1]}); save model.state_dict() instead"
                if code
                else f"{source} is no file of torch.save, or damaged"
            ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else type(state)
        raise WeightsError(
            f"{source}: expected a mapping from parameter names to tensors, found {found}"
        )
    return state


def _is_enum(source: str) -> bool:
    return "_Weights." in source and "/" not in source


def _torchvision_weights(store: Store, arch: str, source: str) -> tuple[str, str, Preprocess]:
    """Return the enum's name, its file's SHA-256 and its preprocessing; the store has the file."""
    choices = torchvision.models.get_model_weights(arch)
    name = source.partition(".")[2]
    if source == "imagenet":
        member = choices.DEFAULT
    elif source.startswith(f"{choices.__name__}.") and name in choices.__members__:
        member = choices[name]
    else:
        known = [f"{choices.__name__}.{member}" for member in choices.__members__]
        raise SpecError(
            f"backbone.weights: {source} is none of {arch}'s weights{nearest(source, known)}"
        )
    enum = f"{choices.__name__}.{member.name}"
    preprocess = published_preprocess(member)
    file = PurePosixPath(urlsplit(member.url).path).name
    # torchvision names a file by the beginning of its hash, and so does the store.
    promised = file.rpartition("-")[2].partition(".")[0]
    for digest in store.children("weights/"):
        if digest.startswith(promised) and store.exists(f"weights/{digest}/weights.json"):
            return enum, digest, preprocess
    return enum, _keep(store, _download(member.url, file), file), preprocess


def _download(url: str, file: str) -> bytes:
    """Take torchvision's file from torch's own cache, else from the network, and check it."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    data = cached.read_bytes() if cached.exists() else _fetch(url, file, f"put it at {cached}")
    promised = file.rpartition("-")[2].partition(".")[0]  # torchvision names files by their hash
    if not sha256(data).startswith(promised):
        raise WeightsError(f"{file} is damaged: its SHA-256 does not begin with {promised}")
    return data


def _timm_weights(store: Store, arch: str, source: str) -> tuple[str, str, Preprocess]:
    """Return the same as `_torchvision_weights`, for published weights of timm's and for a file."""
    published = timm_weights(arch, source)
    preprocess = timm_preprocess(published or arch.removeprefix(PREFIX))
    if published is None:
        return source, _keep(store, _read(source), PurePosixPath(source).name), preprocess
    url, cached = timm_file(published)
    file = PurePosixPath(urlsplit(url).path).name
    kept_as = f"{PREFIX}{published}/{file}"  # no user's file has a name with slashes
    for digest in store.children("weights/"):
        if store.exists(marker := f"weights/{digest}/weights.json"):
            record = WeightsRecord.model_validate_json(store.read(marker).data)
            if record.source == kept_as:
                return published, digest, preprocess
    place = "put it into Hugging Face's cache (`hf download`)"
    data = cached.read_bytes() if cached else _fetch(url, f"{published}'s {file}", place)
    return published, _keep(store, data, kept_as), preprocess


def _fetch(url: str, file: str, place: str) -> bytes:
    """Download a file, or say where to get it and to which place it may be put."""
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # noqa: S310
            data: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"backbone.weights: {file} is not in the store and cannot be downloaded "
            f"({reason}); fetch {url} elsewhere and {place}, or name your copy: "
            "--set backbone.weights=PATH"
        ) from error
    return data
